"""One self-contained HTML page about one registration, made from its output folder alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hybridreg.io import output
from hybridreg.report import curves, figures, tables, viewer
from hybridreg.report.page import rendered
from hybridreg.views import load_views

_VERDICTS = {"pass": "Pass", "warn": "Check", "fail": "Fail"}


@dataclass(frozen=True)
class Figure:
    """A section of pictures with a caption on how to distinguish a good result from a bad one."""

    key: str
    title: str
    caption: str
    rows: Sequence[Sequence[figures.Panel]]
    legend: Sequence[tuple[str, str]] = ()
    bar: figures.ColorBar | None = None
    tables: Sequence[tables.Table] = ()


def write_report(folder: str | Path) -> Path:
    """Writes report.html into an output folder from its result.json and views.npz; gives its path.

    The page needs no network and no other file. Entries that result.json lacks are left out;
    without views.npz there are no pictures.
    """
    folder = Path(folder)
    result = _read_result(folder / output.RESULT)
    views = load_views(folder / output.VIEWS) if (folder / output.VIEWS).is_file() else None
    path = folder / output.REPORT
    path.write_text(_page(result, views), encoding="utf-8", errors="backslashreplace")
    return path


def _read_result(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"{path.parent} has no {path.name}: a report is made from the output folder of "
            "'hybridreg register'"
        )
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no results ({error}): run the case again") from error


def _page(result: Mapping[str, Any], views: figures.Views | None) -> str:
    found = _figures(result, views) if views else []
    case = str(result.get("case") or "case")
    return rendered(
        "case.html.j2",
        title=f"{case} – registration report",
        script="viewer.js" if found else None,
        case=case,
        facts=_facts(result),
        verdict=_verdict(result.get("verdict")),
        warnings=tables.texts(result.get("warnings")),
        summary=tables.comparison(result) + tables.deformation(result),
        figures=found,
        viewer=_viewer(views) if views else None,
        flat=bool(views) and views["fixed"].ndim == 2,
        curves=curves.curves(result.get("trace")),
        chart_width=curves.WIDTH,
        chart_height=curves.HEIGHT,
        details=tables.provenance(result),
        configuration=tables.configuration(result),
        command=result.get("command"),
    )


def _facts(result: Mapping[str, Any]) -> list[str]:
    method, versions = result.get("method"), result.get("versions")
    name = method.get("name") if isinstance(method, Mapping) else method
    preset = result.get("preset")
    version = versions.get("hybridreg") if isinstance(versions, Mapping) else None
    created = str(result.get("created") or "").replace("T", " ").replace("+00:00", " UTC")
    return [
        *([f"preset {preset}"] if preset else []),
        *([f"method {name}"] if name else []),
        *([created] if created else []),
        f"hybridreg {version}" if version else "hybridreg",
        "research software, not a medical device",
    ]


def _verdict(verdict: Any) -> dict[str, Any] | None:
    if not isinstance(verdict, Mapping) or verdict.get("status") not in _VERDICTS:
        return None
    status = verdict["status"]
    reasons = tables.texts(verdict.get("reasons"))
    return {"status": status, "word": _VERDICTS[status], "reasons": reasons}


def _figures(result: Mapping[str, Any], views: figures.Views) -> list[Figure]:
    drawn = figures.Figures(views)
    found = [
        Figure(
            "flicker",
            "Before and after",
            "Structures that jump between fixed and moved are not aligned. In a good result "
            f"outlines and folds stay still while the contrast changes. {_windows(views)}",
            drawn.flicker(),
        ),
        *([_fusion_figure(result, drawn)] if "fused" in views else []),
        Figure(
            "edges",
            "Edges of the fixed image over the moved image",
            "The lines should run along the boundaries of the moved image.",
            drawn.edges(),
            legend=[("fixed edges", _css(figures.FIXED_COLOR))],
        ),
        Figure(
            "checkerboard",
            "Checkerboard of fixed and moved",
            "Boundaries should continue across the tiles without a step.",
            drawn.checkerboard(),
        ),
        *([_match_figure(drawn)] if "matches_kept" in views else []),
        *(_deformation_figures(result, drawn) if "jacobian" in views else []),
        *([_uncertainty_figure(drawn)] if "uncertainty" in views else []),
    ]
    return [*found, _label_figure(result, drawn)] if "fixed_labels" in views else found


def _deformation_figures(result: Mapping[str, Any], drawn: figures.Figures) -> list[Figure]:
    step = f"{drawn.grid_step_mm:g} mm"
    return [
        Figure(
            "jacobian",
            "Local change of volume",
            f"Jacobian determinant of the transform, log scale. {_folds(result, drawn)}",
            drawn.jacobian(),
            legend=[("fold", _css(figures.FOLD_COLOR))] if drawn.has_folds else (),
            bar=drawn.color_bar,
        ),
        Figure(
            "deformation",
            "Deformation",
            f"Lines that are straight and {step} apart in the moving image, as they appear in the "
            "moved image. They should bend smoothly and never cross.",
            drawn.deformation(),
            legend=[(f"every {step}", _css(figures.GRID_COLOR))],
        ),
    ]


def _uncertainty_figure(drawn: figures.Figures) -> Figure:
    return Figure(
        "uncertainty",
        "Uncertainty",
        "Standard deviation of the displacement in mm over the samples of the network. "
        "The result is "
        "less certain where it is large; it does not show errors that all samples have in common.",
        drawn.uncertainty(),
        bar=drawn.uncertainty_bar,
    )


def _match_figure(drawn: figures.Figures) -> Figure:
    kept, of_fixed = (drawn.views[f"matches_{name}"] for name in ("kept", "of_fixed"))
    caption = (
        "Critical points on a slice, and lines from there to where each lies in the moving "
        "image, which "
        "is shown through the affine part of the transform alone. Lines of neighbors should "
        "run alike, to "
        f"the same structure. {of_fixed.sum()} points were chosen in the fixed image and "
        f"{(~of_fixed).sum()} in the moving one; {(~kept).sum()} of them were left out as outliers."
    )
    legend = [
        ("chosen in the fixed image", _css(figures.FIXED_COLOR)),
        ("chosen in the moving image", _css(figures.MOVED_COLOR)),
        ("outlier", _css(figures.FOLD_COLOR)),
    ]
    return Figure("matches", "Matched critical points", caption, drawn.matches(), legend)


def _label_figure(result: Mapping[str, Any], drawn: figures.Figures) -> Figure:
    legend = [("fixed labels", _css(figures.FIXED_COLOR))]
    if "moved_labels" in drawn.views:
        legend.append(("moved labels", _css(figures.MOVED_COLOR)))
    caption = f"Outlines over the fixed image: {_outlined(result, drawn)}."
    return Figure("labels", "Label outlines", caption, drawn.labels(), legend)


def _fusion_figure(result: Mapping[str, Any], drawn: figures.Figures) -> Figure:
    caption = (
        "Fixed and moved as they were fused, one overlaid on the other, the fused image, and the "
        "weight of the fixed image (white: 1). A good result keeps the bone of CT and the "
        "tissue of MR; doubled outlines mean that the images are not aligned there."
    )
    return Figure("fusion", "Fusion", caption, drawn.fusion(), tables=tables.fusion(result))


def _outlined(result: Mapping[str, Any], drawn: figures.Figures) -> str:
    names = tables.label_names(result)
    chosen = drawn.outlined_labels()
    texts = ", ".join(names.get(label, str(label)) for label in chosen)
    return f"the {len(chosen)} largest structures ({texts})" if chosen else "there are no labels"


def _folds(result: Mapping[str, Any], drawn: figures.Figures) -> str:
    jacobian = tables.jacobian_statistics(result)
    texts = []
    if jacobian.get("folding_percent") is not None:
        texts.append(tables.folds_in_words(jacobian["folding_percent"], jacobian["region"]) + ".")
    if drawn.has_folds:
        texts.append("Folded voxels anywhere are red, and the slices go through them.")
    return " ".join(texts or ["0 folds."])


def _windows(views: figures.Views) -> str:
    texts = []
    for side in ("fixed", "moving"):
        low, high = (tables.words(end) for end in views[f"{side}_window"].tolist())
        texts.append(f"{side} {low} to {high} ({views[f'{side}_window_name']})")
    return f"Black to white: {'; '.join(texts)}."


def _viewer(views: figures.Views) -> dict[str, Any]:
    settings, data = viewer.pack(views)
    thinned = settings["size"] != tuple(settings["shown"])
    # "<" would end the script element early if a text held "</script>".
    text = json.dumps(settings).replace("<", "\\u003c")
    return {
        "settings": Markup(text),
        "data": Markup(data),
        "planes": figures.Figures(views).frames(),
        "note": "Its resolution is reduced to keep this page small." if thinned else "",
    }


def _css(color: tuple[int, int, int]) -> str:
    return "rgb({}, {}, {})".format(*color)
