"""DICOM series: grouping of frames, and selection of a series."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hybridreg.io.dicom_frames import Frame, why_no_slice
from hybridreg.io.dicom_volumes import as_file


@dataclass(frozen=True, eq=False)
class Series:
    """One series of a folder, without patient identifiers.

    id: a short identifier for selection. size, spacing: (x, y, z), mm; None if it is not a volume.
    problem: why it cannot be read as it is, and what to do; "" if it can be read.
    volumes: labels of several volumes at one location, in the order of their frame numbers.
    notes: irregularities, such as images that are left out.
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
    volumes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        number = "" if self.uid or self.number is None else str(self.number)
        return hashlib.sha256(f"{self.uid}{number}".encode()).hexdigest()[:8]

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
    """Groups frames into series, by number; localizers are separated from the rest of a series.

    Frames without SeriesInstanceUID belong together if their SeriesNumber is the same.
    """
    groups: dict[tuple[str, int | None, bool], list[Frame]] = {}
    for frame in frames:
        uid = frame.text("SeriesInstanceUID")
        key = (uid, None if uid else _number(frame), frame.is_localizer)
        groups.setdefault(key, []).append(frame)
    found = [
        Series(
            uid=uid,
            number=_number(members[0]),
            modality=members[0].text("Modality"),
            description=members[0].text("SeriesDescription"),
            is_localizer=is_localizer,
            frames=tuple(members),
        )
        for (uid, _, is_localizer), members in groups.items()
    ]
    return sorted(found, key=lambda s: (s.number is None, s.number or 0, s.uid, s.is_localizer))


def chosen(found: Sequence[Series], wanted: str | None) -> Series:
    """The series with a number, id or start of its UID; by default the only one with slices.

    Localizers and objects without slices are not selected if there is a series of slices.
    """
    if wanted is None:
        candidates = [s for s in found if _may_be_meant(s)] or found
        if len(candidates) == 1:
            return candidates[0]
        raise ValueError(f"it holds {len(candidates)} series: choose one by {_ways(found)}")
    exact = [s for s in found if wanted in (str(s.number), s.id, s.uid)]
    matches = exact or [s for s in found if "." in wanted and s.uid.startswith(wanted)]
    # Localizers with the number or UID of a series are not selected either.
    matches = [s for s in matches if not s.is_localizer] or matches
    if len(matches) != 1:
        count = f"{len(matches)} series match" if matches else "no series matches"
        raise ValueError(f"{count} {wanted!r}: choose one by {_ways(found)}")
    return matches[0]


def _may_be_meant(series: Series) -> bool:
    return not series.is_localizer and not all(map(why_no_slice, series.frames))


def _number(frame: Frame) -> int | None:
    try:
        return frame.whole("SeriesNumber")
    except ValueError:
        return None


def _ways(found: Sequence[Series]) -> str:
    listed = "".join(f"\n  {series}" for series in found)
    return f"number, id or the start of its UID (series=N); {as_file('--series N')}:{listed}"
