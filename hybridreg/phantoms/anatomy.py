"""A human head in closed form: the tissue and the structure at a point in LPS mm.

The head is drawn from the outside in: each structure is given by a depth in mm below its surface
and overwrites what was drawn before it. Everything is deterministic. Left and right differ (sizes,
folds, sinuses, lesions): it has no reflection or rotation symmetry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hybridreg.phantoms.shapes import (
    Ellipsoid,
    Points,
    Shapes,
    Tube,
    joined,
    merge,
    merged,
    to_sheets,
    waves,
)

CONTRASTS = ("ct", "t1", "t2")

# Typical values: HU for CT; for MR arbitrary units in the order the tissues have at 1.5 T.
TISSUES = {
    # tissue: (ct, t1, t2)
    "air": (-1000, 0, 0),
    "skin": (50, 330, 210),
    "fat": (-90, 900, 480),
    "bone": (1300, 60, 40),
    "marrow": (600, 380, 230),
    "csf": (5, 120, 1000),
    "gray": (38, 470, 520),
    "white": (28, 700, 340),
    "nucleus": (36, 560, 420),
    "lesion": (18, 380, 760),
    "vitreous": (12, 150, 950),
    "lens": (75, 400, 200),
    "calcium": (180, 60, 60),
    "blood": (60, 220, 120),
}
_TEXTURE = (1.5, 25.0, 20.0)  # slow variation inside the brain, about one standard deviation
_EDGE_MM = 0.7  # half the width of the transition between two tissues


class Structure(NamedTuple):
    """One structure: the name of its label, its tissue, mm below its surface, texture."""

    name: str
    tissue: str
    depth: Tensor
    texture: Tensor | float = 0.0


E, T = Ellipsoid, Tube

CRANIUM = (
    E((0, 0, 20), (70, 88, 61)),
    T((0, 33, -60), (0, 50, -260), 9, 9),  # the spinal canal
    E((0, 44, -24), (60, 42, 34)),
    E((38, -14, -18), (30, 40, 28)),
    E((-38, -14, -18), (30, 40, 28)),
)
PETROUS = (T((14, 2, -38), (62, 20, -40), 7, 12), T((-14, 2, -38), (-62, 20, -40), 7, 12))
FACE = (
    E((0, -46, -54), (62, 52, 66)),
    T((0, -92, -28), (0, -98, -52), 7, 10),  # the nose
    T((0, 20, -50), (0, 48, -260), 60, 56),  # the neck
    E((86, 14, -34), (5, 16, 28), 20),  # the ears
    E((-86, 14, -34), (5, 16, 28), -20),
)
BONES = (
    E((0, -66, -78), (30, 28, 9)),  # hard palate
    T((0, -91, -10), (0, -99, -32), 4, 3),  # nose
    T((54, -70, -42), (70, -14, -40), 5, 4),  # zygomatic arches
    T((-54, -70, -42), (-70, -14, -40), 5, 4),
    T((56, -6, -46), (46, -20, -120), 5, 7),  # mandible
    T((-56, -6, -46), (-46, -20, -120), 5, 7),
    T((0, 14, -68), (0, 28, -260), 9, 13),  # cervical spine
    E((58, 26, -46), (13, 18, 20)),  # mastoids
    E((-58, 26, -46), (12, 17, 19)),
)
AIR = (
    E((7, -66, -48), (5, 28, 22)),  # nasal cavity
    E((-6, -66, -48), (4, 28, 22)),
    E((27, -64, -54), (12, 15, 17), 10),  # maxillary sinuses
    E((-28, -64, -54), (13, 15, 16), -10),
    E((9, -91, 0), (9, 3, 9), 15),  # frontal sinuses
    E((-6, -92, -1), (6, 3, 7), -15),
    E((3, -26, -36), (12, 12, 10)),  # sphenoid sinus
    T((0, -12, -62), (0, -4, -260), 10, 9),  # pharynx
    T((66, 12, -40), (92, 12, -40), 3, 4),  # ear canals
    T((-66, 12, -40), (-92, 12, -40), 3, 4),
    E((60, 30, -50), (5, 8, 9)),  # mastoid cells
    E((-59, 31, -48), (4, 6, 8)),
)
ORBITS = (E((34, -64, -24), (21, 28, 19), -12), E((-34, -64, -24), (21, 28, 19), 12))
EYES = {"left eye": (34, -72, -24), "right eye": (-33, -71, -24)}

CEREBRUM = (
    E((0, 0, 20), (67.5, 85, 58)),
    E((38.5, -13, -17), (28, 38, 26)),
    E((-38, -12, -17), (27, 37, 25)),
)
CORE = (  # around ventricles, nuclei and insulae: without sulci
    E((0, 2, 8), (30, 42, 24)),
    E((42, -2, 6), (14, 26, 17)),
    E((-42, 0, 6), (14, 26, 17)),
)
SYLVIAN = (E((39, -2, 6), (1.8, 24, 15), -4), E((55, -10, 4), (16, 2, 22), 20))
CEREBELLUM = (
    E((0, 48, -31), (30, 27, 24)),
    E((26, 46, -33), (29, 30, 21), 15),
    E((-25, 48, -33), (29, 30, 21), -15),
)
BRAINSTEM = (
    T((0, 12, -6), (0, 16, -34), 14, 12),
    E((0, 9, -27), (16, 12, 13)),
    T((0, 16, -34), (0, 34, -76), 10, 7),
    T((0, 34, -76), (0, 50, -260), 6, 6),
)
VENTRICLE = (
    T((9, -32, 6), (7, -8, 16), 3.5, 5),
    T((7, -8, 16), (12, 10, 24), 5, 5.5),
    T((12, 10, 24), (17, 28, 18), 5.5, 6.5),
    T((17, 28, 18), (23, 46, 8), 6.5, 4.5),
    T((23, 46, 8), (20, 62, 7), 4.5, 1.5),
    T((21, 33, 12), (35, 4, -15), 5, 2.5),
)
LESIONS = (
    E((34, -34, 20), (4.5, 3.5, 4)),
    E((-30, -44, 12), (3, 3, 3)),
    E((-28, 30, 30), (4, 6, 4), 20),
    E((30, 50, 22), (3, 3, 3)),
    E((24, 8, 44), (5, 4, 4)),
    E((-22, -16, 46), (3, 3, 3)),
    E((-44, 26, 8), (2.5, 3, 3)),
    E((-34, 52, 6), (3, 2.5, 3)),
    E((22, 26, -36), (4, 3, 3)),
)
PAIRED: dict[str, tuple[str, Shapes]] = {  # the left one; the right one is mirrored and smaller
    "caudate": (
        "nucleus",
        (T((15, -22, 8), (17, 2, 22), 7, 4), T((17, 2, 22), (24, 26, 20), 4, 2)),
    ),
    "putamen": ("nucleus", (E((27, -4, 5), (5.5, 17, 10), -10),)),
    "pallidum": ("white", (E((20, 0, 2), (4, 9, 6.5), -14),)),
    "thalamus": ("nucleus", (E((11, 14, 8), (8.5, 14, 9), -18),)),
    "hippocampus": ("gray", (T((27, -2, -17), (26, 26, -8), 6, 4),)),
    "lateral ventricle": ("csf", VENTRICLE),
}
MIDLINE: dict[str, tuple[str, Shapes]] = {
    "third ventricle": ("csf", (E((0, 6, 3), (2.2, 15, 9)),)),
    "fourth ventricle": (
        "csf",
        (E((0, 27, -29), (7, 4.5, 9)), T((0, 23, -4), (0, 26, -24), 1, 1.4)),
    ),
    "lesions": ("lesion", LESIONS),
    "calcifications": ("calcium", (E((0.5, 28, 6), (2.5, 3, 2.5)), E((21, 34, 14), (3, 4, 3)))),
    "venous sinus": (
        "blood",
        (T((1, 84, 40), (-2, 86, 0), 4, 4.5), T((2, 60, 70), (1, 84, 40), 3, 4)),
    ),
}
NAMES = (
    *("scalp", "skull", "air cavities", "left eye", "right eye", "cerebrospinal fluid"),
    *("right cerebral cortex", "left cerebral cortex"),
    *("right cerebral white matter", "left cerebral white matter"),
    *("cerebellar cortex", "cerebellar white matter", "brainstem", "corpus callosum"),
    *(f"{side} {name}" for name in PAIRED for side in ("left", "right")),
    *MIDLINE,
)


def intensities(points: Tensor, contrast: str) -> Tensor:
    """Intensities of the head at points in LPS mm, shape (..., 3); float32, shape (...)."""
    column = CONTRASTS.index(contrast)

    def cover(values: Tensor, structure: Structure):
        value = TISSUES[structure.tissue][column] + _TEXTURE[column] * structure.texture
        fraction = (0.5 + structure.depth / (2 * _EDGE_MM)).clamp(0, 1)
        values += fraction * fraction * (3 - 2 * fraction) * (value - values)

    return _draw(points, float(TISSUES["air"][column]), cover)


def labels(points: Tensor) -> Tensor:
    """The structure at points in LPS mm, shape (..., 3): 1 + its index in NAMES, or 0."""

    def cover(values: Tensor, structure: Structure):
        values[structure.depth > 0] = 1 + NAMES.index(structure.name)

    return _draw(points, 0, cover)


def landmarks() -> dict[str, tuple[float, float, float]]:
    """Named points inside the head, in LPS mm: centers of its structures and of their parts."""
    parts = {f"left {name}": shapes for name, (_, shapes) in PAIRED.items()}
    parts |= {f"right {n}": [s.mirrored() for s in shapes] for n, (_, shapes) in PAIRED.items()}
    parts |= {name: shapes for name, (_, shapes) in MIDLINE.items()}
    points = {f"{n} {i + 1}": s.center for n, p in parts.items() for i, s in enumerate(p)}
    return points | EYES


def _draw(points: Tensor, background: float, cover: Callable[[Tensor, Structure], None]) -> Tensor:
    columns = tuple(p.contiguous() for p in points.reshape(-1, 3).to(torch.float32).unbind(-1))
    values = torch.full((len(columns[0]),), background)
    for structure in _outside(columns):
        cover(values, structure)
        cavity = structure.depth  # of the last one
    inside = (cavity > -_EDGE_MM).nonzero()[:, 0]
    part = values[inside]
    for structure in _brain(tuple(p[inside] for p in columns), cavity[inside]):
        cover(part, structure)
    values[inside] = part
    return values.reshape(points.shape[:-1])


def _outside(points: Points) -> Iterator[Structure]:
    """Scalp, face and skull; last the cranial cavity, filled with fluid."""
    cranium = merged(CRANIUM, points, 10)
    cavity = torch.minimum(cranium, -joined(PETROUS, points))
    skull = cranium + 6.5 + 0.015 * points[1] + 0.008 * points[0]
    surface = merge(skull + 6, merged(FACE, points, 6), 12)
    yield Structure("scalp", "skin", surface)
    yield Structure("scalp", "fat", torch.minimum(surface - 1.8, 5.2 - surface))
    yield Structure("scalp", "fat", torch.minimum(1 - to_sheets(points, 34, 8), surface - 4))
    orbits, air, bones = (joined(shapes, points) for shapes in (ORBITS, AIR, BONES))
    walls = torch.maximum(torch.maximum(orbits + 2.5, air + 1.6), bones)
    yield Structure("skull", "bone", torch.maximum(skull, torch.minimum(walls, surface - 4)))
    diploe = torch.minimum(skull - 2.2, -cavity - 2)
    yield Structure("skull", "marrow", torch.maximum(diploe, bones - 3))
    outside = -cavity - 2.5
    yield Structure("scalp", "fat", torch.minimum(torch.minimum(orbits, surface - 2), outside))
    yield Structure("air cavities", "air", torch.minimum(air, outside))
    for name, (x, y, z) in EYES.items():
        globe = Ellipsoid((x, y, z), (12, 12, 12)).depth(points)
        lens = Ellipsoid((x, y - 8, z), (5, 2.2, 5)).depth(points)
        yield Structure(name, "vitreous", torch.minimum(globe, surface - 1))
        yield Structure(name, "lens", torch.minimum(lens, surface - 1))
    yield Structure("cerebrospinal fluid", "csf", cavity)


def _brain(points: Points, cavity: Tensor) -> Iterator[Structure]:
    """Everything inside the cranial cavity except the fluid."""
    texture = waves(points, 45, 9)[0] / 3
    free = torch.minimum(cavity - 1.2, -joined(PETROUS, points) - 2)
    cerebellum = torch.minimum(merged(CEREBELLUM, points, 8), free)
    cerebrum = torch.minimum(merged(CEREBRUM, points, 8), free)
    for structure in (
        *_cerebrum(points, torch.minimum(cerebrum, -cerebellum - 2.5)),
        *_cerebellum(points, cerebellum),
        Structure("brainstem", "white", torch.minimum(merged(BRAINSTEM, points, 4), free)),
        *_deep(points),
    ):
        yield structure._replace(texture=texture)


def _cerebrum(points: Points, hull: Tensor) -> Iterator[Structure]:
    """Cortex and white matter: folded at the sulci, divided between the hemispheres."""
    x, y, z = points
    midline = x + 1.2 * torch.sin(y / 30 + 0.5) - 0.6 * torch.sin(z / 17)
    arc = Ellipsoid((0, 4, 9), (1e6, 40, 22)).depth(points)  # the connection of the hemispheres
    fissure = (midline**2 + arc.clamp(min=0) ** 2).sqrt() - 0.9
    sylvian = -joined([*SYLVIAN, *(shape.mirrored() for shape in SYLVIAN)], points)
    sulci = _to_sulci(points, torch.minimum(hull, fissure))
    folds = torch.minimum(torch.minimum(sulci, fissure), sylvian)
    depth = -merge(-hull, -folds, 1.5)  # below the pia
    for name, tissue, below in (("cortex", "gray", 0), ("white matter", "white", 2.8)):
        yield Structure(f"right cerebral {name}", tissue, depth - below)
        # Drawn over the right one, which extends across, so there is no gap between the
        # hemispheres.
        yield Structure(f"left cerebral {name}", tissue, torch.minimum(depth - below, midline))
    ring = 2.8 - (arc - 6.2).abs()
    yield Structure("corpus callosum", "white", -merge(-ring, x.abs() - 15, 4))


def _to_sulci(points: Points, depth: Tensor) -> Tensor:
    """Distance in mm to the nearest sulcus: curved sheets that extend inward from the surface."""
    x, y, z = points[0], points[1], points[2] - 20
    level = ((x / 67) ** 2 + (y / 84) ** 2 + (z / 58) ** 2).sqrt().clamp(min=0.2)
    stretch = level**-0.85  # nearly the same pattern at every depth
    bent = (
        x * stretch + 4 * torch.sin(z / 7 + y / 15),
        y * stretch + 4 * torch.sin(x / 7 + z / 13),
        z * stretch + 4 * torch.sin(y / 7 + x / 16),
    )
    sheet = to_sheets(bent, 30, 16) / stretch.clamp(min=1)
    reach = 19 + 7 * torch.sin(bent[0] / 11 + 1) * torch.sin(bent[1] / 13)
    beyond = torch.maximum(depth - reach, joined(CORE, points)).clamp(min=0)
    half_width = 0.7 + 0.5 * (1 - depth / 8).clamp(0, 1)
    return (sheet**2 + beyond**2).sqrt() - half_width


def _cerebellum(points: Points, hull: Tensor) -> Iterator[Structure]:
    """Cortex with its folia, which fan out from the middle, and white matter."""
    x, y, z = points[0], points[1] - 42, points[2] + 34
    leaves = 13
    turn = leaves * torch.atan2(z, -y) + 0.04 * x
    leaf = torch.asin(torch.sin(turn).clamp(-1, 1)).abs() / leaves * (y * y + z * z).sqrt()
    cleft = (leaf**2 + (hull - 9).clamp(min=0) ** 2).sqrt() - 0.35
    depth = torch.minimum(hull, cleft)
    yield Structure("cerebellar cortex", "gray", depth)
    yield Structure("cerebellar white matter", "white", depth - 1.7)


def _deep(points: Points) -> Iterator[Structure]:
    for name, (tissue, shapes) in PAIRED.items():
        yield Structure(f"left {name}", tissue, joined(shapes, points))
        right = [shape.mirrored() for shape in shapes]
        yield Structure(f"right {name}", tissue, joined(right, points))
    for name, (tissue, shapes) in MIDLINE.items():
        yield Structure(name, tissue, joined(shapes, points))
