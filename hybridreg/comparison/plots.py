"""The plots of a comparison as SVG data URIs, in colors that color-blind readers distinguish."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from hybridreg.comparison.scores import ScoreTable
from hybridreg.comparison.summary import Summary
from hybridreg.comparison.words import title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors; methods beyond the eighth repeat them with another marker.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8A7F00", "#555555")
_MARKERS = "osD^vP*X"
_DOTS = 100  # cases, above which no single ones are drawn
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hybridreg",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def look(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The color and marker of each method."""
    count = len(COLORS)
    return {
        m: (COLORS[n % count], _MARKERS[n // count % len(_MARKERS)]) for n, m in enumerate(methods)
    }


def box_plot(table: ScoreTable) -> str:
    """One box per method over the cases: median, quartiles, 1.5 times their distance;
    and the mean.
    """
    methods = list(table.methods)
    with _drawing(6.2, 0.9 + 0.32 * len(methods)) as (figure, axes):
        places = np.arange(len(methods))[::-1]
        axes.boxplot(
            list(table.cases.T),
            positions=places,
            orientation="horizontal",
            widths=0.55,
            showmeans=True,
            showfliers=len(table.cases) > _DOTS,
            flierprops={"markersize": 2, "markeredgecolor": "#777777"},
            medianprops={"color": "black"},
            meanprops={
                "marker": "d",
                "markerfacecolor": "white",
                "markeredgecolor": "black",
                "markersize": 5,
            },
        )
        if len(table.cases) <= _DOTS:
            spread = np.random.default_rng(0).uniform(-0.16, 0.16, len(table.cases))
            for (color, marker), place, values in zip(
                look(methods).values(), places, table.cases.T, strict=True
            ):
                axes.scatter(
                    values, place + spread, s=14, color=color, marker=marker, alpha=0.65, lw=0
                )
        axes.set_yticks(places, methods)
        axes.set_xlabel(f"{table.headline.title} – {table.headline.better} is better")
        axes.locator_params(axis="x", nbins=6)
        axes.grid(axis="x", color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
        return _uri(figure)


def cost_plot(summary: Summary) -> str | None:
    """The main score against the median seconds of a registration; None without times."""
    main = summary.main
    timed = [row for row in summary.rows if row.costs.register_s and row.name != "identity"]
    timed = [row for row in timed if main is not None and main.name in row.scores]
    if len(timed) < 2:
        return None
    from matplotlib.ticker import LogLocator

    styles = look([row.name for row in summary.rows])
    with _drawing(6.2, 3.6) as (figure, axes):
        for row in timed:
            spread, (color, marker) = row.scores[main.name], styles[row.name]
            seconds = row.costs.register_s
            if spread.interval:
                axes.plot([seconds] * 2, spread.interval, color=color, lw=1.2)
            axes.scatter([seconds], [spread.mean], color=color, marker=marker, s=42, zorder=3)
            axes.annotate(row.name, (seconds, spread.mean), (6, 4), textcoords="offset points")
        axes.set_xscale("log", subs=())
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g}")
        axes.margins(x=0.2)
        axes.set_xlabel("seconds a registration, median (log scale)")
        axes.set_ylabel(f"{title(main)} – {main.better} is better")
        axes.grid(color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
        return _uri(figure)


def rank_plot(summary: Summary) -> str | None:
    """Mean ranks with bootstrap intervals, and the critical difference from the best one."""
    if len(summary.ranks) < 2:
        return None
    styles = look([row.name for row in summary.rows])
    with _drawing(6.2, 0.9 + 0.3 * len(summary.ranks)) as (figure, axes):
        for place, row in enumerate(reversed(summary.ranks)):
            color, marker = styles[row.method]
            axes.plot(row.interval, [place] * 2, color=color, lw=2)
            axes.scatter([row.rank], [place], color=color, marker=marker, s=36, zorder=3)
        if summary.critical_difference is not None:
            end = summary.ranks[0].rank + summary.critical_difference
            axes.axvspan(summary.ranks[0].rank, end, color="#cccccc", alpha=0.5, lw=0)
        axes.set_yticks(range(len(summary.ranks)), [row.method for row in reversed(summary.ranks)])
        axes.set_xlabel("mean rank over subjects – 1 is best")
        return _uri(figure)


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of a size in inches, in the style of the page, without any display."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def _uri(figure: Figure) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def box_plots(tables: Mapping[str, ScoreTable], names: Sequence[str]) -> list[tuple[str, str]]:
    """(title, picture) of those of the scores that were measured and are not all the same."""
    drawn = [tables[name] for name in names if name in tables and np.ptp(tables[name].cases)]
    return [(table.headline.title, box_plot(table)) for table in drawn]
