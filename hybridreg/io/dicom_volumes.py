"""The volumes in one DICOM series: which images are slices, and which slices form a volume."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hybridreg.io.dicom_frames import CRITERIA, Frame, Slice, placed, why_no_slice
from hybridreg.io.dicom_geometry import MAX_VOXELS, Stack

_SAME_PLACE_MM = 0.01
_SAME_DIRECTION = 2e-4  # of cosines that are rounded to 4 digits
_MAX_KINDS = 8  # of images in a series, for leaving out single images
_MAX_CRITERIA = 3  # header fields that together distinguish volumes
_APART = "put the slices of one volume into a folder of their own, or convert it with dcm2niix"

Digests = Callable[[Sequence[Slice]], Sequence[bytes]]  # equal where the pixels are


@dataclass(frozen=True, eq=False)
class Volume:
    """The slices of one volume, in order along their normal.

    traits: what distinguishes it from the other volumes there, as (what, value); empty if alone.
    """

    slices: list[Slice]
    traits: tuple[tuple[str, str], ...] = ()

    def stack(self) -> Stack:
        """The positions of the slices; ValueError if they are too few or too many."""
        count, first = len(self.slices), self.slices[0]
        if count < 2:
            raise ValueError("it has only one slice: a volume needs at least two")
        if math.prod((count, *first.size)) > MAX_VOXELS:
            raise ValueError(f"{count} slices of this size are more than can be held: read fewer")
        return Stack(
            positions=np.stack([s.position for s in self.slices]),
            axes=first.axes,
            spacing=first.spacing,
            size=first.size,
            names=tuple(s.frame.label for s in self.slices),
        )


def slices_of(frames: Sequence[Frame]) -> tuple[list[Slice], list[str]]:
    """The slices of a series along their normal, and notes on the images that were left out.

    Objects that are not slices (screenshots, reports) are left out, and single images that
    differ from all others in size, spacing, orientation or frame of reference.
    """
    odd: list[str] = []
    for why in (why_no_slice, _why_capture):
        reasons = [frame.index is None and why(frame) for frame in frames]
        if not all(reasons):  # where all are, placed() says why, or it is a series of captures
            odd += [f"{f.where}{why}" for f, why in zip(frames, reasons, strict=True) if why]
            frames = [f for f, why in zip(frames, reasons, strict=True) if not why]
    slices, unlike = _of_one_kind([placed(frame) for frame in frames])
    return _aligned(slices), _left_out(odd + unlike)


def split(slices: Sequence[Slice], digests: Digests) -> tuple[list[Volume], list[str]]:
    """Splits slices into volumes at the same location, in ascending order of their differences.

    slices: in order along their normal. Pixels are compared only if header fields do not
    distinguish slices at one position. Also returns notes on irregularities.
    """
    place = _places(slices)
    count = place[slices[-1]] + 1
    if len(slices) == count:
        return [Volume(list(slices))], []
    if found := _by_fields(slices, place):
        return found, []
    times = Counter(place.values())
    shared = [s for s in slices if times[place[s]] > 1]
    pixels = dict(zip(shared, digests(shared), strict=True))
    unique = _first_of(slices, lambda s: (place[s], pixels.get(s), *s.traits.values()))
    found = _by_fields(unique, place)
    if not found:
        pictures = _first_of(slices, lambda s: (place[s], pixels.get(s)))
        found = [Volume(pictures)] if len(pictures) == count else []
    if found:
        copies = len(slices) - sum(len(volume.slices) for volume in found)
        return found, [f"{copies} slice(s) repeat another one; each was taken once"]
    if found := _by_number(slices, place):
        return found, []
    original = [s for s in slices if not s.frame.is_derived]
    if len(original) == count and len({place[s] for s in original}) == count:
        derived = [f"{s.frame.where}it is derived" for s in slices if s.frame.is_derived]
        return [Volume(original)], _left_out(derived)
    raise ValueError(_unsorted(slices, place, times))


def labels(volumes: Sequence[Volume]) -> tuple[str, ...]:
    """Labels that distinguish several volumes; none if there is only one."""
    texts = (", ".join(f"{what} {value}" for what, value in one.traits) for one in volumes)
    return tuple(filter(None, texts))


def several(volumes: Sequence[Volume]) -> str:
    """A message on how to choose among volumes; "" if there is only one."""
    if len(volumes) == 1:
        return ""
    shown = []
    for traits in zip(*(volume.traits for volume in volumes), strict=True):
        values = list(dict.fromkeys(value for _, value in traits))
        shown.append(f"{traits[0][0]} ({', '.join(values[:6])}{', ...' if values[6:] else ''})")
    last = len(volumes) - 1
    return (
        f"it holds {len(volumes)} volumes that differ in {' and '.join(shown)}: choose one, "
        f"frame=0 to frame={last}; "
        f"{as_file('--frame N')}"
    )


def chosen_volume(volumes: Sequence[Volume], frame: int | None) -> Volume:
    """The volume with a number, from 0; by default the only one."""
    if frame is None and len(volumes) > 1:
        listed = "".join(f"\n  frame {k}: {text}" for k, text in enumerate(labels(volumes[:12])))
        raise ValueError(several(volumes) + listed + ("\n  ..." if volumes[12:] else ""))
    if not 0 <= (frame or 0) < len(volumes):
        raise ValueError(f"there is no frame {frame}: it holds {len(volumes)}, counted from 0")
    return volumes[frame or 0]


def as_file(options: str) -> str:
    """Advice that holds for every command that takes an image."""
    return (
        f"`hybridreg dicom FOLDER -o image.nii.gz {options}` writes it as a file for every other "
        "command"
    )


def _why_capture(frame: Frame) -> str:
    return "it is a screenshot (secondary capture)" if frame.is_capture else ""


def _left_out(images: list[str]) -> list[str]:
    if not images:
        return []
    count = "1 image that is" if len(images) == 1 else f"{len(images)} images that are"
    shown = "; ".join(images[:3]) + ("; ..." if images[3:] else "")
    return [f"left out {count} no slice of the volume: {shown}"]


def _of_one_kind(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """The slices without single ones that differ from most others, and how they differ."""
    kinds: list[list[Slice]] = []
    for one in slices:
        kind = next((kind for kind in kinds if not _unlike(one, kind[0])), None)
        if kind:
            kind.append(one)
        else:
            kinds.append([one])
        if len(kinds) > _MAX_KINDS or one.frame.index is not None:
            return slices, []
    kinds.sort(key=len, reverse=True)
    main, others = kinds[0], kinds[1:]
    if len(main) <= 2 * len(others) or any(len(kind) > 1 for kind in others):
        return slices, []  # then _aligned() says why
    return main, [f"{kind[0].frame.where}{_unlike(kind[0], main[0])}" for kind in others]


def _unlike(one: Slice, other: Slice) -> str:
    """How an image differs from another kind of image; "" if it does not."""
    if one.size != other.size:
        x, y = one.size
        return f"it has {x} x {y} pixels, the others {other.size[0]} x {other.size[1]}"
    if not np.allclose(one.spacing, other.spacing, rtol=1e-4):
        return f"its pixels are {one.spacing[0]:.6g} x {one.spacing[1]:.6g} mm, unlike the others'"
    if _is_turned(one, other):
        return "it is turned against the others"
    if one.frame.text("FrameOfReferenceUID") != other.frame.text("FrameOfReferenceUID"):
        return "its frame of reference is not that of the others"
    return ""


def _is_turned(one: Slice, other: Slice) -> bool:
    return bool(np.abs(one.axes - other.axes).max() > _SAME_DIRECTION)


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
    turned = [s for s in slices if _is_turned(s, first)]
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


def _places(slices: Sequence[Slice]) -> dict[Slice, int]:
    """Slice -> number of its place, from 0, for slices in order along their normal."""
    place = {slices[0]: 0}
    first, number = slices[0], 0
    for one in slices[1:]:
        step = one.position - first.position
        if step @ slices[0].axes[2] > _SAME_PLACE_MM:
            first, number = one, number + 1
        elif np.abs(step).max() > 2 * _SAME_PLACE_MM:
            raise ValueError(
                f"{first.frame.label} and {one.frame.label} lie side by side in one plane: {_APART}"
            )
        place[one] = number
    return place


def _first_of(slices: Sequence[Slice], key: Callable[[Slice], Hashable]) -> list[Slice]:
    """Of slices with equal keys, the first one."""
    return list({key(one): one for one in reversed(slices)}.values())[::-1]


def _by_fields(slices: Sequence[Slice], place: dict[Slice, int]) -> list[Volume]:
    """The volumes by the fewest header fields that distinguish them; none if no field does."""
    count = len(set(place.values()))
    if len(slices) % count or len(slices) == count:
        return [Volume(list(slices))] if len(slices) == count else []
    fields = [keyword for keyword in CRITERIA if _is_even(slices, place, keyword)]
    for size in range(1, _MAX_CRITERIA + 1):
        for keywords in combinations(fields, size):
            groups: dict[tuple, list[Slice]] = {}
            for one in slices:
                groups.setdefault(tuple(one.traits[k] for k in keywords), []).append(one)
            if all(_covers(group, place, count) for group in groups.values()):
                return _labeled(groups, keywords)
    return []


def _is_even(slices: Sequence[Slice], place: dict[Slice, int], keyword: str) -> bool:
    """Whether a field has several values, each equally often at every place."""
    counts = Counter((s.traits[keyword], place[s]) for s in slices)
    often: dict[Hashable, set[int]] = {}
    for (value, _), n in counts.items():
        often.setdefault(value, set()).add(n)
    even = len(counts) == len(often) * len(set(place.values()))
    return len(often) > 1 and even and all(len(times) == 1 for times in often.values())


def _covers(group: Sequence[Slice], place: dict[Slice, int], count: int) -> bool:
    return len(group) == count and len({place[s] for s in group}) == count


def _labeled(groups: dict[tuple, list[Slice]], keywords: Sequence[str]) -> list[Volume]:
    values = [sorted({key[k] for key in groups}, key=_rank) for k in range(len(keywords))]
    shown = []
    for keyword, known in zip(keywords, values, strict=True):
        # A time of day may help to identify a patient, so only the order is shown.
        ranks = [f"{k + 1} of {len(known)}" for k in range(len(known))]
        texts = ranks if keyword == "AcquisitionTime" else [str(v) or "not given" for v in known]
        shown.append(dict(zip(known, texts, strict=True)))
    names = [CRITERIA[keyword] for keyword in keywords]
    return [
        Volume(
            groups[key],
            tuple((name, texts[v]) for name, texts, v in zip(names, shown, key, strict=True)),
        )
        for key in sorted(groups, key=lambda key: tuple(map(_rank, key)))
    ]


def _rank(value: Hashable) -> tuple[float, str]:
    return (value, "") if isinstance(value, float) else (math.inf, str(value))


def _by_number(slices: Sequence[Slice], place: dict[Slice, int]) -> list[Volume]:
    """The volumes of images that are numbered consecutively, one volume after the other."""
    count = len(set(place.values()))
    try:
        numbers = {one: one.frame.whole("InstanceNumber") for one in slices}
    except ValueError:
        return []
    order = sorted(slices, key=numbers.__getitem__)
    groups = [order[k : k + count] for k in range(0, len(order), count)]
    if len(set(numbers.values())) < len(order) or not all(_covers(g, place, count) for g in groups):
        return []
    return [
        Volume(
            sorted(group, key=place.__getitem__),
            (("image numbers", f"{numbers[group[0]]} to {numbers[group[-1]]}"),),
        )
        for group in groups
    ]


def _unsorted(slices: Sequence[Slice], place: dict[Slice, int], times: Counter) -> str:
    at = next(k for k in times if times[k] > 1)
    one, other = [s for s in slices if place[s] == at][:2]
    fewest, most = min(times.values()), max(times.values())
    uneven = f" ({fewest} to {most} at a place, so some volume is incomplete)"
    return (
        f"at {sum(n > 1 for n in times.values())} of {len(times)} places there are several slices "
        f"that differ, such as {one.frame.label} and {other.frame.label}"
        f"{uneven if most > fewest > 1 else ''}, and no combination of up to {_MAX_CRITERIA} "
        f"header fields sorts them into complete volumes: {_APART}"
    )
