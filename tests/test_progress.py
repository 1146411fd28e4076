"""Progress reaches whoever listens, scaled by who surrounds it."""

import logging

import pytest

from hybridreg.case_log import CaseLog
from hybridreg.progress import listening, report, within


def test_reports_are_scaled_by_the_part_they_fill():
    reports = []
    report(0.5, "nobody listens")
    with listening(lambda fraction, doing: reports.append((fraction, doing))):
        with within(0.5, 1.0, "second: "), within(0.0, 0.5):
            report(0.5, "a")
            report(7.0, "b")
        report(0.25, "c")
    assert reports == [(0.625, "second: a"), (0.75, "second: b"), (0.25, "c")]


def test_a_record_holds_lines_warnings_and_times_and_leaves_no_handler_behind():
    record, logger = CaseLog(), logging.getLogger("hybridreg")
    before = list(logger.handlers), logger.level
    with pytest.raises(RuntimeError), record.listening(), record.timing("a"):
        logging.getLogger("hybridreg.x").info("read %d", 3)
        logging.getLogger("hybridreg.x").warning("odd")
        raise RuntimeError
    assert record.warnings == ["odd"]
    assert [line.split(" ", 2)[2] for line in record.lines] == ["INFO read 3", "WARNING odd"]
    assert record.times_s["a"] >= 0 and (list(logger.handlers), logger.level) == before
