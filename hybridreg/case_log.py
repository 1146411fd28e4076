"""The log of a case: log lines, warnings, and the times of its parts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hybridreg.io.files import named_by_role


class CaseLog(logging.Handler):
    """The log lines of this package while it listens, the warnings among them, and wall seconds.

    roles: what files are called instead of their paths, which may name patients; {path: role}.
    Warnings logged with ``extra={"about_case": False}`` are log lines only.

    >>> log = CaseLog()
    >>> with log.listening(), log.timing("read"):
    ...     logging.getLogger("hybridreg.io").warning("the sform is sheared")
    >>> log.warnings, list(log.times_s)
    (['the sform is sheared'], ['read'])
    """

    def __init__(self, roles: Mapping[str, str] | None = None):
        super().__init__(logging.INFO)
        self.roles = roles or {}
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.times_s: dict[str, float] = {}

    def emit(self, record: logging.LogRecord):
        self.lines.append(named_by_role(self.format(record), self.roles))
        if record.levelno >= logging.WARNING and getattr(record, "about_case", True):
            self.warnings.append(named_by_role(record.getMessage(), self.roles))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Records the log messages of the package inside the block."""
        logger = logging.getLogger("hybridreg")
        level = logger.level
        logger.addHandler(self)
        logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Adds the wall seconds of the block to those of that name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.times_s[name] = round(self.times_s.get(name, 0.0) + spent, 4)
