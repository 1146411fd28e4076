"""Scales, fuses, scores and writes two aligned images of any modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridreg import progress
from hybridreg.fusion import RULES, Fused, WeightNetwork, fuse
from hybridreg.fusion.color import fuse_color, luminance, overlay
from hybridreg.fusion_scores import SCORES, FusionScores, fused_pair, fusion_scores
from hybridreg.images import Image, LabelMap
from hybridreg.intensity import Scaling, to_unit
from hybridreg.io.files import errors_of, sha256_of, whole_file
from hybridreg.io.formats import WRITTEN_COLORS
from hybridreg.io.images import write_image
from hybridreg.io.output import write_json
from hybridreg.registry import DEFAULT_RULE

BASELINES = ("mean", "maximum", "laplacian")  # trivial fusions for comparison
ENDINGS = WRITTEN_COLORS
UNIT = "intensities from 0 to 1 without a unit: neither Hounsfield units nor measurements"
ROUNDING = "8-bit sRGB: 255 times the intensity, rounded to the nearest whole number"

_LIBRARIES = ("hybridreg", "SimpleITK", "torch", "numpy", "scipy", "scikit-image")


@dataclass(frozen=True, eq=False)
class Fusion:
    """Two fused images, with their intensity scalings and the scores of the result.

    image: the fused one in [0, 1]; three channels with the chroma of a colored source.
    sources: fixed and moved in [0, 1] as they were fused: gray, or the luma of a colored one.
    scores: of the rule first, then of trivial fusions, by rule; empty if none were requested.
    """

    fused: Fused
    image: Image
    sources: tuple[Image, Image]
    scalings: tuple[Scaling, Scaling]
    scores: Mapping[str, FusionScores] = field(default_factory=dict)

    def shown(self) -> dict[str, Image]:
        """The images in [0, 1] shown in a report, by name."""
        fixed, moved = self.sources
        return {
            "fusion_fixed": fixed,
            "fusion_moved": moved,
            "fusion_weight": self.fused.weight,
            "fused": self.fused.image,
        }

    def summary(self) -> dict[str, Any]:
        """Everything that is not an image, ready for JSON."""
        fused, (fixed, moved) = self.fused, self.scalings
        steps = fused.flicker
        return {
            "rule": fused.rule,
            "rule_does": RULES.help(fused.rule),
            "slices": fused.plane or None,
            "levels": fused.levels,
            "values": UNIT,
            "color": self.image.channels > 1,
            "fixed_scaling": {**asdict(fixed), "text": str(fixed)},
            "moved_scaling": {**asdict(moved), "text": str(moved)},
            "flicker": steps and {**asdict(steps), "ratio": steps.ratio},
            "scores": {rule: dict(found.values) for rule, found in self.scores.items()},
            "better": {name: SCORES[name].better for name in SCORES} if self.scores else {},
            "undefined_scores": {
                rule: dict(found.reasons) for rule, found in self.scores.items() if found.reasons
            },
        }


@dataclass(frozen=True, eq=False)
class Overlay:
    """A functional image in color over an anatomical one, with their intensity scalings.

    image: three channels in [0, 1], for display.
    """

    image: Image
    scalings: tuple[Scaling, Scaling]
    colormap: str
    opacity: float

    def summary(self) -> dict[str, Any]:
        """Everything that is not an image, ready for JSON."""
        fixed, moved = self.scalings
        return {
            "overlay": self.colormap,
            "opacity": self.opacity,
            "values": "colors for display; measured values are in the moved image's own file",
            "color": True,
            "fixed_scaling": {**asdict(fixed), "text": str(fixed)},
            "moved_scaling": {**asdict(moved), "text": str(moved)},
        }


def overlay_images(
    fixed: Image,
    moved: Image,
    *,
    fixed_window: str = "auto",
    moved_window: str = "auto",
    colormap: str = "hot",
    opacity: float = 0.7,
) -> Overlay:
    """A moved functional image, such as PET, in color over the fixed one, as read from their files.

    Unlike a fusion it shows the functional values alone in color; see ``fusion.color.overlay``.
    """
    fixed, fixed_scaling = _scaled("fixed", fixed, fixed_window)
    moved, moved_scaling = _scaled("moved", moved, moved_window)
    image = overlay(fixed, moved, colormap=colormap, opacity=opacity)
    return Overlay(image, (fixed_scaling, moved_scaling), colormap, opacity)


def fuse_images(
    fixed: Image,
    moved: Image,
    *,
    rule: str = DEFAULT_RULE,
    network: WeightNetwork | None = None,
    fixed_window: str = "auto",
    moved_window: str = "auto",
    slices: str | int | None = None,
    fixed_valid: LabelMap | None = None,
    moved_valid: LabelMap | None = None,
    feather_mm: float = 5.0,
    scored: bool = False,
) -> Fusion:
    """Fuses two aligned images on one grid, as read from their files.

    fixed_window, moved_window: how each is scaled to [0, 1], see ``intensity.to_unit``. One of the
    two may be in color (three channels): its luma is fused and its chroma kept. The rest as for
    ``fusion.fuse``. scored: compute all fusion scores of the result and of trivial fusions, where
    both images have data.
    """
    how = {
        "slices": slices,
        "fixed_valid": fixed_valid,
        "moved_valid": moved_valid,
        "feather_mm": feather_mm,
    }
    progress.report(0.0, "scaling intensities")
    fixed, fixed_scaling = _scaled("fixed", fixed, fixed_window)
    moved, moved_scaling = _scaled("moved", moved, moved_window)
    with progress.within(0.05, 0.3 if scored else 1.0):
        fused, image = fuse_color(fixed, moved, rule=rule, network=network, **how)
    fusion = Fusion(
        fused,
        image,
        (luminance(fixed), luminance(moved)),
        (fixed_scaling, moved_scaling),
    )
    return replace(fusion, scores=_scores(fusion, how)) if scored else fusion


def network_of(rule: str, weights: str | Path | None = None) -> WeightNetwork | None:
    """The trained network of a rule, packaged or from a checkpoint file; None if it needs none."""
    if rule not in RULES or RULES[rule].weigh is not None:
        if weights is not None and rule in RULES:
            raise ValueError(f"the fusion rule {rule!r} needs no network: leave the weights out")
        return None
    if rule not in _NETWORKS:
        return None  # a rule of another package: the caller provides its network
    network = _NETWORKS[rule]()
    return network() if weights is None else network(weights)


def _liu_2017() -> Callable[..., WeightNetwork]:
    from hybridreg.fusion.focus import trained_network  # its libraries are slow to import

    return trained_network


def _liu_2017_fast() -> Callable[..., WeightNetwork]:
    from hybridreg.fusion.fast import fast_network

    return fast_network


# For each rule that needs a network, the function that reads its weights, packaged or named.
_NETWORKS = {"liu-2017": _liu_2017, "liu-2017-fast": _liu_2017_fast}


def check_fused_path(path: Path, *, overwrite: bool):
    """Raises ValueError, before any work, for a file that a fused image cannot be written to."""
    if not path.name.lower().endswith(ENDINGS):
        raise ValueError(f"{path}: a fused image is written as one of {' '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}: make it first")
    for file in (path, sidecar_path(path)):
        if file.exists() and not overwrite:
            raise ValueError(f"{file} exists already: choose another name or give --overwrite")


def sidecar_path(path: Path) -> Path:
    """The JSON file beside a fused image that describes it."""
    ending = next(end for end in ENDINGS if path.name.lower().endswith(end))
    return path.with_name(path.name[: -len(ending)] + ".json")


def write_fusion(path: Path, fusion: Fusion | Overlay, *, inputs: Mapping[str, Any]) -> Path:
    """Writes a fused image and its sidecar, both complete or neither; returns the sidecar's path.

    Volumes are float32; PNG and overlays have 8 bits a channel. inputs: the description of the
    input files in the sidecar.
    """
    sidecar = sidecar_path(path)
    image, rounding = fusion.image, None
    if path.name.lower().endswith(".png") or isinstance(fusion, Overlay):
        image, rounding = replace(image, data=image.data * 255, dtype="uint8"), ROUNDING
    about = {
        "schema": 1,
        **fusion.summary(),
        "rounding": rounding,
        "inputs": dict(inputs),
        "versions": {name: version(name) for name in _LIBRARIES},
    }
    with errors_of(path), whole_file(path) as partial, whole_file(sidecar) as partial_sidecar:
        write_image(partial, image)
        write_json(partial_sidecar, about)
    return sidecar


def describe_input(path: Path, image: Image, *, keep_identifiers: bool) -> dict[str, Any]:
    """The description of an input: its grid and checksum, and its name only on request."""
    about: dict[str, Any] = {"size": image.grid.size, "spacing_mm": image.grid.spacing}
    about["sha256"] = sha256_of(path)
    return about | ({"name": path.name} if keep_identifiers else {})


def _scaled(side: str, image: Image, window: str) -> tuple[Image, Scaling]:
    try:
        return to_unit(image, window)
    except ValueError as error:
        raise ValueError(f"the {side} image: {error}") from error


def _scores(fusion: Fusion, how: Mapping[str, Any]) -> dict[str, FusionScores]:
    sources, rule = fusion.sources, fusion.fused.rule
    mask = _seen_by_both(sources, how["fixed_valid"], how["moved_valid"])
    rules = list(dict.fromkeys([rule, *BASELINES]))
    scores = {}
    for number, name in enumerate(rules):
        progress.report(0.3 + 0.7 * number / len(rules), f"scoring {name}")
        image = (fusion.fused if name == rule else fuse(*sources, rule=name, **how)).image
        scores[name] = fusion_scores(image, *sources, mask=mask)
    return scores


def _seen_by_both(
    sources: tuple[Image, Image], fixed_valid: LabelMap | None, moved_valid: LabelMap | None
) -> LabelMap | None:
    """The foreground where both have data; None if both have data everywhere."""
    valid = torch.ones(sources[0].grid.shape, dtype=torch.bool)
    for mask in (fixed_valid, moved_valid):
        if mask is not None:
            valid &= mask.data != 0
    if valid.all():
        return None
    inside = fused_pair(sources[0], *sources).inside & valid.numpy()
    if not inside.any():
        raise ValueError("there is no foreground where both images have data, so nothing to score")
    return LabelMap(torch.from_numpy(inside.astype(np.int32)), sources[0].grid)
