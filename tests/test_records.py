"""Records: one row a case and method, the same after a round trip."""

import pytest

from hybridreg.records import HEADLINES, Record, compared, config_hash, read_records, write_records

RESULT = {
    "preset": "rigid",
    "method": {"name": "elastix", "seed": 0},
    "versions": {"hybridreg": "0.1.0"},
    "times_s": {"register": 3.5, "read": 1.0},
    "verdict": {"status": "warn", "reasons": ["a", "b, c"]},
    "similarity": {"before": {"correlation": 0.1}, "after": {"correlation": 0.9}},
    "scores": {
        "before": {"dice": {"mean": 0.2}, "landmarks": None},
        "after": {"dice": {"mean": 0.6}, "landmarks": None, "jacobian": {"log_sd": 0.25}},
    },
}
RECORDS = [
    Record.of(RESULT, "one", subject="S1", more={"age": "60"}, peak_memory_mb=812.0, cpu_s=7.25),
    Record("two", method="rigid", status="failed", reason='no "fixed", no\nmoving', total_s=1.5),
    Record("three", method="rigid", status="missing", reason="not reached"),
]


def test_a_record_holds_the_headlines_of_a_result():
    record = RECORDS[0]
    assert record.scores["dice"] == 0.6 and record.scores["correlation"] == 0.9
    assert record.scores["log_jacobian_sd"] == 0.25 and record.scores["tre_mean_mm"] is None
    assert (record.method, record.register_s, record.reason) == ("rigid", 3.5, "a; b, c")
    assert compared(RESULT)[:2] == [("Correlation", 0.1, 0.9), ("Mean Dice", 0.2, 0.6)]


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_records_come_back_as_they_were_written(tmp_path, ending):
    write_records(tmp_path, RECORDS)
    found = read_records(tmp_path / f"records.{ending}")
    assert [record.row() for record in found] == [
        {**record.row(), "age": record.more.get("age", "")} if ending == "csv" else record.row()
        for record in RECORDS
    ]
    assert found[0].more == {"age": "60"} and found[0].peak_memory_mb == 812.0


def test_settings_of_another_order_have_the_same_hash_and_other_values_another():
    one = config_hash({"name": "lddmm", "sigma": 0.03})
    assert one == config_hash({"sigma": 0.03, "name": "lddmm"}) and len(one) == 12
    assert one != config_hash({"name": "lddmm", "sigma": 0.04})


def test_what_are_no_records_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("name,fixed,moving\na,b,c\n")
    with pytest.raises(ValueError, match="a.csv: these are no records: .* method, status"):
        read_records(tmp_path / "a.csv")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="a.json: these are no records"):
        read_records(tmp_path / "a.json")


def test_every_headline_has_a_name_of_its_own_and_says_which_way_is_better():
    assert len({headline.name for headline in HEADLINES}) == len(HEADLINES)
    assert {headline.better for headline in HEADLINES} == {"higher", "lower"}
