"""Paired statistics of methods, one value per subject and method.

Tests are SciPy's; Holm's correction and the critical difference are compared with statsmodels and
scikit-posthocs in the tests. Under ``FEW`` subjects there are no p-values: no result could be
significant after a correction, and the intervals are too narrow.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

FEW = 6  # subjects, below which nothing is tested
ALPHA = 0.05
POWER = 0.8
_RESAMPLES = 2000
_EFFICIENCY = 3 / math.pi  # of Wilcoxon's test relative to the t test, for normal differences


class Interval(NamedTuple):
    """95 % bootstrap interval."""

    low: float
    high: float


def mean_interval(values: np.ndarray) -> Interval | None:
    """Of the mean of values (N,) of N subjects, bias-corrected and accelerated (Efron 1987).

    None for fewer than three subjects.
    """
    if len(values) < 3:
        return None
    if np.ptp(values) < 1e-12 * max(1.0, np.abs(values).max()):
        return Interval(float(values.mean()), float(values.mean()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=_RESAMPLES,
            batch=max(1, 2_000_000 // len(values)),
            rng=np.random.default_rng(0),
        ).confidence_interval
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return None
    return Interval(float(found.low), float(found.high))


def wilcoxon_p(differences: np.ndarray) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test, zeros by Pratt (1959); exact where possible.

    differences: (N,), one per subject. None for fewer than ``FEW``; 1 if all are 0.
    """
    if len(differences) < FEW:
        return None
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)


def rank_biserial(differences: np.ndarray) -> float:
    """Effect size of paired differences (Kerby 2014): from -1, all negative, to 1, all positive."""
    values = differences[differences != 0]
    if not len(values):
        return 0.0
    ranks = stats.rankdata(np.abs(values))
    return float((ranks * np.sign(values)).sum() / ranks.sum())


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number (Holm 1979), in the same order; None stays None."""
    known = sorted((p, number) for number, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for done, (p, number) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - done)))
        corrected[number] = largest
    return corrected


def friedman_p(values: np.ndarray) -> float | None:
    """p that all methods are the same (Friedman 1937); values: (subjects, methods).

    None for fewer than ``FEW`` subjects or three methods; 1 where no subject distinguishes any.
    """
    if values.shape[0] < FEW or values.shape[1] < 3:
        return None
    if not np.ptp(values, axis=1).any():
        return 1.0
    return float(stats.friedmanchisquare(*values.T).pvalue)


class Ranks(NamedTuple):
    """Mean ranks of methods, 1 the best, and how stable they are over samples of subjects.

    best: the fraction of bootstrap samples in which each method has the lowest mean rank.
    difference: by which mean ranks must differ to be distinguished (Nemenyi, 5 %); None for fewer
    than ``FEW`` subjects.
    """

    mean: np.ndarray
    intervals: list[Interval]
    best: np.ndarray
    difference: float | None


def mean_ranks(gains: np.ndarray) -> Ranks:
    """gains: (subjects, methods), the larger the better; ties share their mean rank."""
    ranks = stats.rankdata(-gains, axis=1)
    count, methods = ranks.shape
    drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, _RESAMPLES)
    means = drawn @ ranks / count  # (resamples, methods)
    lowest = means <= means.min(axis=1, keepdims=True) + 1e-9
    ends = np.percentile(means, [2.5, 97.5], axis=0).T
    return Ranks(
        ranks.mean(axis=0),
        [Interval(float(low), float(high)) for low, high in ends],
        (lowest / lowest.sum(axis=1, keepdims=True)).mean(axis=0),
        critical_difference(methods, count) if count >= FEW and methods > 1 else None,
    )


def critical_difference(methods: int, subjects: int) -> float:
    """Smallest significant difference of mean ranks (Demsar 2006, Nemenyi's test at 5 %)."""
    quantile = stats.studentized_range.ppf(1 - ALPHA, methods, np.inf) / math.sqrt(2)
    return float(quantile * math.sqrt(methods * (methods + 1) / (6 * subjects)))


def subjects_needed(differences: np.ndarray) -> int | None:
    """How many subjects would show the difference seen with 80 % power at 5 %, by Wilcoxon's test.

    From the mean and standard deviation of the differences (N,), by the normal approximation for a
    paired t test and the efficiency of Wilcoxon's. None for fewer than three, and where they do not
    differ or all alike.
    """
    spread = differences.std(ddof=1) if len(differences) > 2 else 0.0
    if not spread or not differences.mean():
        return None
    alpha, power = stats.norm.ppf(1 - ALPHA / 2), stats.norm.ppf(POWER)
    paired_t = ((alpha + power) * spread / differences.mean()) ** 2 + alpha**2 / 2
    return max(FEW, math.ceil(paired_t / _EFFICIENCY))


def worst_mean(gains: np.ndarray, fraction: float = 0.3) -> np.ndarray:
    """Mean over the worst cases of each method; gains: (cases, methods), the larger the better."""
    count = max(1, math.ceil(fraction * len(gains)))
    return np.sort(gains, axis=0)[:count].mean(axis=0)
