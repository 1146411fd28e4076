"""DICOM series: which frames belong together, which series is meant, and the volume in it."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hybridreg.io.dicom_frames import CRITERIA, Frame, Slice, is_slice, placed
from hybridreg.io.dicom_geometry import MOST_VOXELS, Stack

_SAME_PLACE_MM = 0.01
_SAME_DIRECTION = 2e-4  # of cosines that are rounded to 4 digits
_APART = "put the slices of one volume into a folder of their own, or convert it with dcm2niix"


@dataclass(frozen=True, eq=False)
class Series:
    """One series of a folder, without anything that names the patient.

    id: short, to choose it by. size, spacing: (x, y, z), mm; None where it is no volume.
    problem: why it cannot be read as it is, and what to do; "" where it can be read.
    """

    uid: str
    number: int | None
    modality: str
    description: str
    is_localizer: bool
    frames: tuple[Frame, ...] = field(repr=False)
    size: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    problem: str = ""

    @property
    def id(self) -> str:
        return hashlib.sha256(self.uid.encode()).hexdigest()[:8]

    @property
    def slices(self) -> int:
        return len(self.frames)

    def __str__(self) -> str:
        number = "" if self.number is None else f"number {self.number}"
        count = "1 image" if self.slices == 1 else f"{self.slices} images"
        kind = " (localizer)" if self.is_localizer else ""
        parts = filter(None, (number, self.modality, self.description, count))
        return f"{self.id}: {', '.join(parts)}{kind}"


def grouped(frames: Iterable[Frame]) -> list[Series]:
    """The series that frames belong to, by number; localizers apart from the rest of a series."""
    groups: dict[tuple[str, bool], list[Frame]] = {}
    for frame in frames:
        groups.setdefault((frame.text("SeriesInstanceUID"), frame.is_localizer), []).append(frame)
    found = [
        Series(
            uid=uid,
            number=_number(members[0]),
            modality=members[0].text("Modality"),
            description=members[0].text("SeriesDescription"),
            is_localizer=is_localizer,
            frames=tuple(members),
        )
        for (uid, is_localizer), members in groups.items()
    ]
    return sorted(found, key=lambda s: (s.number is None, s.number or 0, s.uid, s.is_localizer))


def chosen(found: Sequence[Series], wanted: str | None) -> Series:
    """The series asked for by number, id or start of its UID; unasked, the only one with slices.

    Localizers and objects without slices are never meant where there is a series of slices.
    """
    if wanted is None:
        candidates = [s for s in found if not s.is_localizer and is_slice(s.frames[0])] or found
        if len(candidates) == 1:
            return candidates[0]
        raise ValueError(f"it holds {len(candidates)} series: choose one by {_ways(found)}")
    exact = [s for s in found if wanted in (str(s.number), s.id, s.uid)]
    matches = exact or [s for s in found if "." in wanted and s.uid.startswith(wanted)]
    # Localizers that share the number or UID of a series are not meant either.
    matches = [s for s in matches if not s.is_localizer] or matches
    if len(matches) != 1:
        count = f"{len(matches)} series match" if matches else "no series matches"
        raise ValueError(f"{count} {wanted!r}: choose one by {_ways(found)}")
    return matches[0]


def volume(
    series: Series, frame: int | None, same_pixels: Callable[[Slice, Slice], bool]
) -> tuple[list[Slice], Stack, list[str]]:
    """The slices of one volume in order, where they lie, and what was odd about them, in words.

    frame: which volume to take of a series that holds several at the same place, from 0.
    """
    if series.is_localizer:
        raise ValueError("it is a localizer: single views to plan the scan on, not a volume")
    slices = _aligned([placed(one) for one in series.frames])
    volumes, what = _volumes(_without_copies(slices, same_pixels), same_pixels)
    copies = len(series.frames) - sum(map(len, volumes))
    if frame is None and len(volumes) > 1:
        raise ValueError(
            f"it holds {len(volumes)} volumes that differ in {what}: "
            f"choose one, frame=0 to frame={len(volumes) - 1} (`hybridreg dicom --frame`; elsewhere "
            "--fixed-frame or --moving-frame)"
        )
    if not 0 <= (frame or 0) < len(volumes):
        raise ValueError(f"there is no frame {frame}: it holds {len(volumes)}, counted from 0")
    slices = volumes[frame or 0]
    if len(slices) < 2:
        raise ValueError("it has only one slice: a volume needs at least two")
    if math.prod((len(slices), *slices[0].size)) > MOST_VOXELS:
        raise ValueError(f"{len(slices)} slices of this size are more than can be held: read fewer")
    notes = [f"{copies} slice(s) repeat another one; each was taken once"] if copies else []
    return slices, _stack(slices), notes


def _aligned(slices: list[Slice]) -> list[Slice]:
    """Refuses slices that are not of one size, spacing, orientation and frame of reference."""
    for keyword, what in (("FrameOfReferenceUID", "frame of reference"), ("StackID", "stack")):
        if len({s.frame.text(keyword) for s in slices}) > 1:
            raise ValueError(f"its slices belong to more than one {what} ({keyword}): {_APART}")
    _check_one("size", [f"{s.size[0]} x {s.size[1]} pixels" for s in slices])
    first = slices[0]
    near = [np.allclose(s.spacing, first.spacing, rtol=1e-4) for s in slices]
    if not all(near):
        _check_one("spacing", [f"{s.spacing[0]:.6g} x {s.spacing[1]:.6g} mm" for s in slices])
    turned = [s for s in slices if np.abs(s.axes - first.axes).max() > _SAME_DIRECTION]
    if turned:
        raise ValueError(
            f"its slices do not lie in parallel: {len(turned)} of {len(slices)} are turned against "
            f"{first.frame.label}, such as {turned[0].frame.label}: {_APART}"
        )
    normal = first.axes[2]
    return sorted(slices, key=lambda s: float(s.position @ normal))


def _check_one(what: str, values: list[str]):
    counts = Counter(values)
    if len(counts) > 1:
        shown = ", ".join(f"{value} ({n} slices)" for value, n in counts.most_common(4))
        raise ValueError(f"its slices are not of one {what}: {shown}; {_APART}")


def _places(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices, in order, grouped by where they lie."""
    groups: list[list[Slice]] = []
    normal = slices[0].axes[2]
    for one in slices:
        if groups and (one.position - groups[-1][0].position) @ normal <= _SAME_PLACE_MM:
            if np.abs(one.position - groups[-1][0].position).max() > 2 * _SAME_PLACE_MM:
                raise ValueError(
                    f"{groups[-1][0].frame.label} and {one.frame.label} lie side by side in one "
                    f"plane: {_APART}"
                )
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _without_copies(
    slices: list[Slice], same_pixels: Callable[[Slice, Slice], bool], *, by_traits: bool = True
) -> list[Slice]:
    """The slices without those that repeat another in place, traits and pixels."""
    kept: list[Slice] = []
    for group in _places(slices):
        unique: list[Slice] = []
        for one in group:
            alike = [s for s in unique if not by_traits or s.traits == one.traits]
            if not any(same_pixels(s, one) for s in alike):
                unique.append(one)
        kept += unique
    return kept


def _volumes(
    slices: list[Slice], same_pixels: Callable[[Slice, Slice], bool]
) -> tuple[list[list[Slice]], str]:
    """The volumes that share one place, and what they differ in."""
    places = _places(slices)
    if max(map(len, places)) == 1:
        return [slices], ""
    for keyword, what in CRITERIA.items():
        values = sorted({s.traits[keyword] for s in slices}, key=str)
        parts = [[s for s in slices if s.traits[keyword] == value] for value in values]
        if len(parts) > 1 and all(_covers(part, len(places)) for part in parts):
            order = sorted(range(len(parts)), key=lambda k: _rank(values[k]))
            shown = ", ".join(str(values[k]) for k in order[:6]) + (", ..." if order[6:] else "")
            return [parts[k] for k in order], f"{what} ({shown})"
    unique = _without_copies(slices, same_pixels, by_traits=False)
    if len(unique) == len(places):
        return [unique], ""
    group = next(group for group in places if len(group) > 1)
    raise ValueError(
        f"at {sum(len(g) > 1 for g in places)} of {len(places)} places there are several slices "
        f"that differ, such as {group[0].frame.label} and {group[1].frame.label}, and no header "
        f"field sorts them into whole volumes: {_APART}"
    )


def _covers(part: list[Slice], count: int) -> bool:
    return len(part) == count and len(_places(part)) == count


def _rank(value: Any) -> tuple[float, str]:
    return (value, "") if isinstance(value, float) else (math.inf, str(value))


def _stack(slices: list[Slice]) -> Stack:
    first = slices[0]
    return Stack(
        positions=np.stack([s.position for s in slices]),
        axes=first.axes,
        spacing=first.spacing,
        size=first.size,
        names=tuple(s.frame.label for s in slices),
    )


def _number(frame: Frame) -> int | None:
    try:
        return frame.whole("SeriesNumber")
    except ValueError:
        return None


def _ways(found: Sequence[Series]) -> str:
    listed = "".join(f"\n  {series}" for series in found)
    return f"number, id or the start of its UID (series=, --series):{listed}"
