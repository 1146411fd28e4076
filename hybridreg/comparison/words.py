"""The outcome of a comparison in sentences, for the top of its page."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hybridreg.comparison.statistics import ALPHA, FEW, Interval
from hybridreg.comparison.summary import Summary, Test
from hybridreg.records import Headline

_ZERO = 1e-6
_NAMED = 5  # cases in a sentence
_MOST = 10_000  # subjects, beyond which the number says nothing


def sentences(summary: Summary) -> list[str]:
    """What was found, how surely, at what cost, and where it fails."""
    return [
        *_extent(summary),
        *_best(summary),
        *_compared(summary),
        *_distinguished(summary),
        *_cost(summary),
        *_failures(summary),
        *_power(summary),
    ]


def number(value: float | None, *, signed: bool = False) -> str:
    """Three significant digits, with a true minus sign; a dash for None,
    and 0 for rounding errors.
    """
    if value is None:
        return "–"
    value = 0.0 if abs(value) < _ZERO else value
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    if value and abs(value) < 0.001:  # one significant digit
        digits = -math.floor(math.log10(abs(value)))
    text = f"{value:{'+' if signed else ''}.{digits}f}" if value else "0"
    return text.replace("-", "−")


def counted(count: int, what: str) -> str:
    """A number of things, such as "1 case" or "2 cases"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def interval(found: Interval | None) -> str:
    """Both ends; a dash for None."""
    return "–" if found is None else f"{number(found.low)} to {number(found.high)}"


def p_value(p: float | None) -> str:
    """Three decimals without the leading zero; a dash for None."""
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def unit(score: Headline) -> str:
    """The unit of a score, with a space before it; empty for a ratio."""
    name = score.title
    return f" {name[name.index('(') + 1 : name.index(')')]}" if "(" in name else ""


def title(score: Headline, *, inside: bool = False) -> str:
    """The name of a score without its unit; inside: as inside of a sentence."""
    name = score.title.partition(" (")[0]
    return name[0].lower() + name[1:] if inside and name[1].islower() else name


def subjects(needed: int | None) -> str:
    """A number of subjects that is needed; a dash for None."""
    return "–" if needed is None else str(needed) if needed <= _MOST else f"over {_MOST}"


def _extent(summary: Summary) -> Iterator[str]:
    cases, persons = counted(summary.cases, "case"), counted(summary.subjects, "subject")
    yield (
        f"{len(summary.rows)} methods on {cases} of {persons}; the unit of all statistics is the "
        "subject."
    )
    if summary.waiting:
        yield (
            "Not finished with every method, and not counted yet: "
            f"{counted(summary.waiting, 'case')}."
        )


def _best(summary: Summary) -> Iterator[str]:
    main = summary.main
    if main is None or not summary.cases:
        yield "No score was measured."
        return
    sign = summary.tables[main.name].sign
    rows = [row for row in summary.rows if main.name in row.scores]
    order = sorted(rows, key=lambda row: -sign * row.scores[main.name].mean)
    first, spread = order[0], order[0].scores[main.name]
    within = f" (95 % interval {interval(spread.interval)})" if spread.interval else ""
    yield (
        f"{first.name} has the best {title(main, inside=True)}: "
        f"{number(spread.mean)}{unit(main)}{within}; "
        f"on its worst 30 % of the cases {number(spread.worst)}. Then come "
        + ", ".join(f"{row.name} {number(row.scores[main.name].mean)}" for row in order[1:])
        + "."
    )


def _compared(summary: Summary) -> Iterator[str]:
    tests = summary.tests_of(summary.main)
    if any(test.holm is None for test in tests):
        seen = ", ".join(f"{test.method} {_seen(test)}" for test in tests)
        count = len(summary.tables[summary.main.name].subjects)
        yield (
            f"Differences from {summary.reference} in "
            f"{title(summary.main, inside=True)}, not tested: "
            f"{counted(count, 'subject')}, at least {FEW} are needed: {seen}."
        )
        return
    for test in tests:
        yield f"{_verdict(test, summary)}{_inferior(test, summary)}."


def _seen(test: Test) -> str:
    within = f" (95 % {interval(test.interval)})" if test.interval else ""
    return f"{number(test.difference, signed=True)}{unit(test.score)}{within}"


def _verdict(test: Test, summary: Summary) -> str:
    what = title(test.score, inside=True)
    seen = f"{number(test.difference, signed=True)}{unit(test.score)}"
    seen += f", 95 % {interval(test.interval)}" if test.interval else ""
    shown = f"{seen}; Wilcoxon p {_equals(test.holm)} after Holm, effect {number(test.effect)}"
    if test.holm < ALPHA:
        side = "better" if test.better else "worse"
        return f"{test.method} is {side} than {summary.reference} in {what} ({shown})"
    return f"{test.method} and {summary.reference} are not distinguished in {what} ({shown})"


def _inferior(test: Test, summary: Summary) -> str:
    if test.not_inferior is None:
        return ""
    margin = f"the stated margin of {number(summary.margin)}{unit(test.score)}"
    if test.not_inferior:
        return f"; not inferior by {margin}"
    return f"; that it is not inferior by {margin} is not shown"


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _distinguished(summary: Summary) -> Iterator[str]:
    if summary.friedman_p is not None:
        differ = "differ" if summary.friedman_p < ALPHA else "are not distinguished"
        yield (
            f"Over all {len(summary.ranks)} methods together, they {differ} (Friedman p "
            f"{_equals(summary.friedman_p)})."
        )
    if len(summary.ranks) > 1:
        first = summary.ranks[0]
        yield (
            f"{first.method} has the best mean rank, {number(first.rank)}; it keeps the "
            "first place in "
            f"{first.best:.0%} of resampled sets of subjects."
        )


def _cost(summary: Summary) -> Iterator[str]:
    timed = [row for row in summary.rows if row.costs.register_s and row.name != "identity"]
    if len(timed) > 1:
        order = sorted(timed, key=lambda row: row.costs.register_s)
        yield (
            f"The fastest is {order[0].name} with {number(order[0].costs.register_s)} s a case "
            f"(median), the slowest {order[-1].name} with {number(order[-1].costs.register_s)} s."
        )


def _failures(summary: Summary) -> Iterator[str]:
    failed = [f"{row.name} in {row.failed}" for row in summary.rows if row.failed]
    if failed:
        cases = counted(summary.cases, "case")
        yield f"Failed: {', '.join(failed)} of {cases}; they count with the worst score."
        if summary.lost:
            names = ", ".join(summary.lost[:_NAMED]) + ", ..." * (len(summary.lost) > _NAMED)
            yield (
                f"Every method failed in {counted(len(summary.lost), 'case')}, without "
                "effect on the "
                f"scores: {names}."
            )
    else:
        yield "No registration failed."


def _power(summary: Summary) -> Iterator[str]:
    unsure = [
        test
        for test in summary.tests_of(summary.main)
        if (test.holm is None or test.holm >= ALPHA) and test.needed
    ]
    if unsure:
        needs = [f"{test.method} {subjects(test.needed)}" for test in unsure]
        yield (
            f"To show the difference seen to {summary.reference} with 80 % power, about so many "
            f"subjects are needed: {', '.join(needs)} (before correction; there are "
            f"{summary.subjects})."
        )
