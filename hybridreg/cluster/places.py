"""Where cases run: on this machine, on the workers of a Dask scheduler, or in Slurm jobs."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from hybridreg.cluster.supervisor import ClusterError

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster
    from distributed import Client

_ANSWER_S = 5.0  # for a scheduler to answer
_MEMORY_FRACTION = 0.9  # of the available memory, for all cases together
_CONFIG = {  # of Dask
    "distributed.scheduler.allowed-failures": 1,  # a case whose worker dies is tried once more
    "distributed.scheduler.worker-saturation": 1.0,  # a worker prefetches no cases
    "distributed.worker.preload": ["hybridreg.cluster.supervisor"],  # its dask_setup
    "distributed.admin.tick.limit": "1h",  # no warnings when the machine is busy
}


class Place(Protocol):
    """Where cases run: a context manager that connects to Dask workers."""

    @property
    def memory_bytes(self) -> int | None:
        """The default memory limit of a case there; None sets no limit."""
        ...

    def client(self) -> Iterator[Client]:
        """A context manager: connected inside the block, all its own processes ended afterwards."""
        ...


@dataclass(frozen=True)
class Local:
    """Worker processes of this machine, one case at a time in each.

    workers: None for one per processor. Dask listens on 127.0.0.1 only.
    """

    workers: int | None = None

    def __post_init__(self):
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"the number of workers must be at least 1, found {self.workers}")

    @property
    def count(self) -> int:
        return self.workers or _processors()

    @property
    def memory_bytes(self) -> int | None:
        return int(_MEMORY_FRACTION * psutil.virtual_memory().total / self.count)

    @contextmanager
    def client(self) -> Iterator[Client]:
        from distributed import LocalCluster

        with _configured():
            cluster = LocalCluster(
                n_workers=self.count,
                threads_per_worker=1,
                memory_limit=0,  # the supervisor limits the memory of cases
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # Dask has no dashboard without bokeh
                silence_logs=50,
            )
            with cluster, _connected(cluster) as client:
                yield client


@dataclass(frozen=True)
class Scheduler:
    """The workers of a running ``dask scheduler`` at an address such as tcp://10.0.0.1:8786.
    hybridreg must be installed where they run, with the same files under the same paths.
    """

    address: str

    memory_bytes = None

    @contextmanager
    def client(self) -> Iterator[Client]:
        with _configured(), _connected(self.address) as client:
            yield client


@dataclass(frozen=True)
class Slurm:
    """Slurm jobs as described by a TOML file; needs ``pip install 'hybridreg[hpc]'``.

    In the file: ``jobs``, how many; ``interface`` or ``host``, where Dask listens for them (it must
    be reached from the nodes); and what ``dask_jobqueue.SLURMCluster`` takes: ``cores`` (cases at a
    time in a job), ``memory``, ``walltime``, ``queue``, ``account``, ``job_script_prologue``, ...
    """

    file: Path

    @property
    def memory_bytes(self) -> int | None:
        from dask.utils import parse_bytes

        options = self.options()
        return int(_MEMORY_FRACTION * parse_bytes(options["memory"]) / int(options["cores"]))

    def options(self) -> dict[str, Any]:
        """The settings in the file (ValueError if one is missing or it is not valid TOML)."""
        try:
            options = tomllib.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"there is no Slurm file {self.file}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.file} is not valid TOML: {error}") from None
        missing = [name for name in ("jobs", "cores", "memory") if name not in options]
        if missing:
            raise ValueError(f"{self.file} must say {', '.join(missing)}")
        if not {"interface", "host"} & set(options):
            raise ValueError(
                f"{self.file} must name the network interface (such as interface = 'ib0') or the "
                "host address at which the nodes reach this machine"
            )
        return options

    @contextmanager
    def cluster(self) -> Iterator[SLURMCluster]:
        """The scheduler of this run; no Slurm job is submitted yet."""
        options = self.options()
        del options["jobs"]
        try:
            from dask_jobqueue import SLURMCluster
        except ImportError as error:
            raise ValueError(
                "running on Slurm needs dask-jobqueue: pip install 'hybridreg[hpc]'"
            ) from error
        listening = {"host": options.pop("host")} if "host" in options else {}
        listening |= {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        try:
            cluster = SLURMCluster(**{"processes": 1, **options}, scheduler_options=listening)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.file} cannot be used: {error}") from error
        with cluster:
            yield cluster

    @contextmanager
    def client(self) -> Iterator[Client]:
        jobs = self.options()["jobs"]
        with _configured(), self.cluster() as cluster:
            cluster.scale(jobs=jobs)
            with _connected(cluster) as client:
                yield client


def _processors() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _configured() -> Iterator[None]:
    """Dask with our settings and without its log lines, here and in workers that are started."""
    import dask
    import distributed  # noqa: F401  its own settings must be loaded before ours

    quiet = {"DASK_LOGGING__DISTRIBUTED": "critical"}
    with dask.config.set(_CONFIG), _environment(quiet):
        yield


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _connected(to: Any) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(to, timeout=_ANSWER_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {to} within {_ANSWER_S:g} s: is it running, and can it "
            "be reached from here? Start one with `dask scheduler`, or leave it out to run here"
        ) from error
    try:
        yield client
    finally:
        with suppress(OSError, TimeoutError):
            client.close()
