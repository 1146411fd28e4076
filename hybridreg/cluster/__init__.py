"""Running many cases: on this machine, on a Dask scheduler, or on Slurm."""

from hybridreg.cluster.places import Local, Place, Scheduler, Slurm
from hybridreg.cluster.run import run
from hybridreg.cluster.supervisor import ClusterError, Ended, Limits

__all__ = ["ClusterError", "Ended", "Limits", "Local", "Place", "Scheduler", "Slurm", "run"]
