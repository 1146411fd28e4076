"""Statistics of a comparison: against trusted libraries, and on data without any difference."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hybridreg.comparison import words
from hybridreg.comparison.entries import Entry, LabelScores
from hybridreg.comparison.scores import score_table
from hybridreg.comparison.statistics import (
    critical_difference,
    friedman_p,
    holm,
    mean_interval,
    mean_ranks,
    rank_biserial,
    subjects_needed,
    wilcoxon_p,
    worst_mean,
)
from hybridreg.comparison.summary import label_rows, summarize
from hybridreg.comparison.tables import main_table
from hybridreg.comparison.words import sentences
from hybridreg.records import HEADLINES, Record

DICE = next(headline for headline in HEADLINES if headline.name == "dice")
TRE = next(headline for headline in HEADLINES if headline.name == "tre_mean_mm")


def records(values: dict[str, list[float | None]], subjects=None, score="dice") -> list[Record]:
    """One per method and case; None is a failed one."""
    found = []
    for method, column in values.items():
        for number, value in enumerate(column):
            subject = f"s{number}" if subjects is None else subjects[number]
            status = "failed" if value is None else "done"
            scores = {} if value is None else {score: value}
            found.append(Record(f"c{number}", subject, method, status, scores=scores))
    return found


def random_gains(subjects: int, methods: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    shared = random.normal(0, 1, (subjects, 1))
    return shared + random.normal(0, 1, (subjects, methods)) + 0.4 * np.arange(methods)


@pytest.mark.parametrize("seed", range(3))
def test_holms_correction_is_that_of_statsmodels(seed):
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(seed).uniform(0, 0.2, 9).tolist()
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected.tolist())
    assert holm([None, 0.04, None, 0.01]) == [None, 0.04, None, 0.02]


@pytest.mark.parametrize("seed", range(3))
def test_the_critical_difference_decides_as_nemenyis_test_of_scikit_posthocs(seed):
    from scikit_posthocs import posthoc_nemenyi_friedman

    gains = random_gains(14, 5, seed)
    ranks = mean_ranks(gains)
    p_values = posthoc_nemenyi_friedman(gains).to_numpy()
    apart = np.abs(ranks.mean[:, None] - ranks.mean[None])
    off = ~np.eye(5, dtype=bool)
    assert ((apart > ranks.difference) == (p_values < 0.05))[off].all()
    assert (p_values[off] < 0.05).any()
    assert critical_difference(5, 14) == pytest.approx(2.728 * np.sqrt(5 * 6 / (6 * 14)), abs=1e-3)


def test_pairwise_tests_are_those_of_scikit_posthocs():
    from scikit_posthocs import posthoc_wilcoxon

    gains = random_gains(11, 2, 4)
    expected = posthoc_wilcoxon(gains.T.tolist(), zero_method="pratt").to_numpy()[0, 1]
    assert wilcoxon_p(gains[:, 1] - gains[:, 0]) == pytest.approx(expected)


def test_the_effect_is_minus_one_and_one_at_the_ends_and_agrees_with_wilcoxons_sums():
    assert rank_biserial(np.array([0.1, 0.2, 0.3])) == 1
    assert rank_biserial(np.array([-0.1, -0.2])) == -1
    assert rank_biserial(np.zeros(4)) == 0
    values = random_gains(9, 1, 7)[:, 0]
    smaller = stats.wilcoxon(values).statistic
    assert abs(rank_biserial(values)) == pytest.approx(1 - 2 * smaller / (9 * 10 / 2))


def test_friedman_finds_a_difference_and_none_where_methods_tie():
    gains = random_gains(12, 4, 1)
    assert friedman_p(gains) == pytest.approx(stats.friedmanchisquare(*gains.T).pvalue)
    assert friedman_p(np.ones((12, 4))) == 1
    assert friedman_p(gains[:5]) is None and friedman_p(gains[:, :2]) is None


def test_few_subjects_are_not_tested():
    assert wilcoxon_p(np.arange(1.0, 6.0)) is None
    assert wilcoxon_p(np.arange(1.0, 7.0)) == pytest.approx(2 / 2**6)
    assert wilcoxon_p(np.zeros(8)) == 1


@pytest.mark.parametrize("subjects", [12, 20])
def test_two_equal_methods_differ_significantly_in_five_percent_of_comparisons(subjects):
    random = np.random.default_rng(subjects)
    shared = random.normal(0.6, 0.1, (1000, subjects))  # a hard subject is hard for both
    first, second = (shared + random.normal(0, 0.03, shared.shape) for _ in range(2))
    found = [wilcoxon_p(differences) < 0.05 for differences in second - first]
    assert 0.03 <= np.mean(found) <= 0.07


def test_the_interval_of_a_mean_covers_it_and_is_narrow():
    random = np.random.default_rng(3)
    inside = 0
    for _ in range(200):
        low, high = mean_interval(random.normal(0.6, 0.05, 20))
        inside += low <= 0.6 <= high
        assert high - low < 0.08
    assert 0.88 <= inside / 200 <= 0.99
    assert mean_interval(np.array([0.5, 0.5, 0.5])) == (0.5, 0.5)
    assert mean_interval(np.array([0.5, 0.6])) is None


def test_ranks_are_stable_where_one_method_always_wins_and_not_where_two_take_turns():
    always = np.array([[3.0, 1.0, 2.0]] * 10)
    assert mean_ranks(always).mean.tolist() == [1, 3, 2]
    assert mean_ranks(always).best.tolist() == [1, 0, 0]
    turns = np.array([[2.0, 1.0], [1.0, 2.0]] * 5)
    assert mean_ranks(turns).best == pytest.approx([0.5, 0.5], abs=0.05)


@pytest.mark.parametrize("effect", [0.3, 0.5, 0.8])
def test_the_power_note_agrees_with_statsmodels(effect):
    from statsmodels.stats.power import TTestPower

    values = np.random.default_rng(0).normal(0, 1, 50)
    values = (values - values.mean()) / values.std(ddof=1) + effect
    exact = TTestPower().solve_power(effect, power=0.8, alpha=0.05)
    assert subjects_needed(values) == pytest.approx(exact * np.pi / 3, rel=0.03)
    assert subjects_needed(values * 0 + 1) is None


def test_a_failure_counts_with_the_worst_score():
    table = score_table(records({"a": [0.8, None, 0.6], "b": [0.5, 0.4, 0.3]}), DICE)
    assert table.cases[:, 0].tolist() == [0.8, 0.0, 0.6]
    assert table.imputed.tolist() == [1, 0]
    far = score_table(records({"a": [1.0, None], "b": [5.0, 2.0]}, score="tre_mean_mm"), TRE)
    assert far.cases[:, 0].tolist() == [1.0, 5.0]


def test_the_subject_is_the_unit_and_cases_without_a_score_do_not_count():
    table = score_table(
        records({"a": [0.2, 0.4, 0.9, None], "b": [0.3, 0.5, 0.7, None]}, ["p", "p", "q", "r"]),
        DICE,
    )
    assert table.case_names == ("c0", "c1", "c2")
    assert table.subjects == pytest.approx(np.array([[0.3, 0.4], [0.9, 0.7]]))


def test_the_worst_thirty_percent_are_the_worst_in_the_direction_of_the_score():
    values = np.arange(10.0)[:, None]
    assert worst_mean(values)[0] == 1.0
    assert -worst_mean(-values)[0] == 8.0


def test_non_inferiority_is_shown_only_within_the_margin():
    random = np.random.default_rng(0)
    ours = random.normal(0.7, 0.05, 20)
    values = {"ref": ours, "near": ours - 0.004 + random.normal(0, 0.002, 20), "far": ours - 0.05}
    found = summarize(records(values), reference="ref", margin=0.01)
    assert [test.not_inferior for test in found.tests] == [True, False]
    distances = {name: 10 * (1 - column) for name, column in values.items()}
    found = summarize(records(distances, score="tre_mean_mm"), reference="ref", margin=0.1)
    assert [test.not_inferior for test in found.tests] == [True, False]
    assert all(test.effect < 0 for test in found.tests)  # larger distances are worse


def test_baselines_are_shown_but_neither_tested_nor_ranked():
    values = {
        "identity": [0.1] * 8,
        "ref": np.linspace(0.5, 0.6, 8),
        "new": np.linspace(0.6, 0.8, 8),
    }
    found = summarize(records(values), reference="ref", baselines=["identity"])
    assert [row.name for row in found.rows] == ["identity", "ref", "new"]
    assert [test.method for test in found.tests] == ["new"]
    assert [row.method for row in found.ranks] == ["new", "ref"]
    words = "\n".join(sentences(found))
    assert "new has the best mean Dice" in words and "new is better than ref" in words


def test_numbers_have_three_digits_and_no_exponent():
    values = (0.12345, 12.345, 1234.5, 2.3e-5, -0.00042, 4e-7, None)
    shown = ["0.123", "12.3", "1234", "0.00002", "−0.0004", "0", "–"]
    assert [words.number(value) for value in values] == shown
    assert words.number(0.00042, signed=True) == "+0.0004"


@pytest.mark.parametrize("count", [1, 5, 6])
def test_few_subjects_are_described_and_neither_ranked_nor_claimed_not_inferior(count):
    values = {"ref": [0.5] * count, "new": [0.6] * count}
    found = summarize(records(values), reference="ref", margin=0.01)
    said = " ".join(sentences(found))
    persons = "1 subject" if count == 1 else f"{count} subjects"
    few = f"not tested: {persons}, at least 6 are needed"
    assert f"of {persons};" in said and (few in said) == (count < 6)
    assert ("resampled" in said) == ("not inferior" in said) == bool(found.ranks) == (count >= 6)


def test_few_subjects_with_the_main_score_are_not_tested_where_others_lack_it():
    dice = records({"ref": [0.5] * 5, "new": [0.6] * 5})
    landmarks = records({"ref": [2.0] * 3, "new": [1.0] * 3}, ["a", "b", "c"], score="tre_mean_mm")
    every = [*dice, *(replace(each, name=each.subject) for each in landmarks)]
    said = " ".join(sentences(summarize(every, reference="ref")))
    assert "of 8 subjects" in said and "not tested: 5 subjects, at least 6 are needed" in said


def test_cases_that_some_method_has_not_reached_do_not_count():
    reached = records({"a": [0.5, 0.6, 0.7], "b": [0.6, 0.7, None]})
    waiting = [
        Record(r.name, r.subject, r.method, "missing") if r.status == "failed" else r
        for r in reached
    ]
    found = summarize(waiting, reference="a")
    assert (found.cases, found.waiting) == (2, 1)
    assert found.row("a").scores["dice"].mean == pytest.approx(0.55)


def test_a_score_that_a_method_cannot_have_is_no_failure_of_it():
    found = records({"ref": [5.0, 8.0, 9.0], "lost": [None] * 3}, score="capture_mm")
    found += [Record(f"c{n}", f"s{n}", "given", scores={"dice": 0.5}) for n in range(3)]
    summary = summarize(found, reference="ref", score="capture_mm")
    assert [row.name for row in summary.rows if "capture_mm" in row.scores] == ["ref", "lost"]
    assert summary.row("lost").scores["capture_mm"].mean == 0
    assert [test.method for test in summary.tests_of(summary.main)] == ["lost"]
    assert "given" not in "".join(sentences(summary)[1])
    assert main_table(summary).rows[2][1].text == "–"


def test_labels_of_cases_that_some_method_has_not_reached_do_not_count():
    def entry(case: str, method: str, dice: float | None, status: str = "done") -> Entry:
        shown = () if dice is None else (LabelScores(4, "left", dice, 1.0),)
        return Entry(Record(case, method=method, status=status), {}, shown)

    entries = [entry("one", "a", 0.8), entry("one", "b", None, "failed")]
    entries += [entry("two", "a", 0.2), entry("two", "b", None, "missing")]
    (row,) = label_rows(entries, ["a", "b"])
    assert (row.cases, row.dice) == (1, {"a": 0.8, "b": 0.0})
