"""What is wrong with a comparison, before anything runs: errors, and notes for its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hybridreg.cases import ImagePair
from hybridreg.comparison.contenders import Contender, parts
from hybridreg.config import load_intent, load_method
from hybridreg.io.checkpoints import read_card, weights_in
from hybridreg.io.images import describe, read_image
from hybridreg.io.tables import CaseRow
from hybridreg.methods.base import RegistrationMethod
from hybridreg.preprocessing import looks_like_ct

_NAMED = 5  # cases in a message
_LOOKED_AT = 3  # cases whose intensities are looked at: reading all would take too long
_FEW = 6  # subjects, below which there are no p-values


def check(rows: Sequence[CaseRow], contenders: Sequence[Contender]) -> tuple[str, ...]:
    """Raises ValueError for cases and methods that cannot be compared;
    gives the notes on others.
    """
    _check_kind(contenders)
    _check_dimension(rows, contenders)
    _check_transforms(rows, contenders)
    return tuple([*_subjects(rows), *_evaluation(rows), *_contrast(rows, contenders)])


def _check_kind(contenders: Sequence[Contender]):
    for each in contenders:
        accepts = None if each.pattern else getattr(_method(each), "accepts", None)
        if accepts is not None and not issubclass(ImagePair, accepts):
            raise ValueError(
                f"{each.name} takes pairs of the type {accepts.__name__}, and a table of cases has "
                "two images: leave the method out"
            )


def _check_dimension(rows: Sequence[CaseRow], contenders: Sequence[Contender]):
    limited = {each.name: valid for each in contenders if (valid := _dimensions(each)) != [2, 3]}
    if not limited:
        return
    images = {row.fixed: row for row in reversed(rows)}
    found = {size: row for path, row in images.items() if (size := _dimension(path))}
    for name, valid in limited.items():
        for dimension, row in found.items():
            if dimension not in valid:
                raise ValueError(
                    f"{name} registers {' and '.join(f'{n}D' for n in valid)} images, and "
                    f"{row.name} is {dimension}D: leave the method out, or compare on other cases"
                )


def _dimensions(contender: Contender) -> list[int]:
    if contender.pattern:
        return [2, 3]
    valid = {2, 3}
    for part in parts(_method(contender)):
        valid &= set(getattr(part, "dimensions", (2, 3)))
    for weights in weights_in(contender.settings):
        if trained := read_card(weights).arguments.get("dimension"):
            valid &= {trained}
    return sorted(valid)


def _dimension(path: Path) -> int | None:
    """None for an image that cannot be read, which costs its own case."""
    try:
        return len(describe(path)["size"])
    except (OSError, ValueError):
        return None


def _method(contender: Contender) -> RegistrationMethod:
    source = contender.source
    return load_method(source) if isinstance(source, (str, Path, Mapping)) else source


def _check_transforms(rows: Sequence[CaseRow], contenders: Sequence[Contender]):
    for each in contenders:
        missing = [row for row in rows if each.pattern and not each.transform_of(row).exists()]
        if missing and len(missing) == len(rows):
            raise ValueError(
                f"{each.name}: there is no transform of any case; the first would be "
                f"{each.transform_of(rows[0])}"
            )


def _subjects(rows: Sequence[CaseRow]) -> Iterator[str]:
    known = [row for row in rows if row.subject]
    if not known:
        yield (
            "the table has no column subject, so every case counts as another person: if persons "
            "occur in several cases, name them in it, or the statistics claim too much"
        )
    elif len(known) < len(rows):
        raise ValueError(
            f"the subject of {len(rows) - len(known)} case(s) is not given, such as of "
            f"{next(row.name for row in rows if not row.subject)}: fill the column or remove it"
        )
    count = len({row.subject or row.name for row in rows})
    if count == 1:
        yield "all cases are of one subject: this describes that subject, and nothing can be tested"
    elif count < _FEW:
        yield (
            f"there are {count} subjects, too few for p-values (at least {_FEW}); the "
            "intervals of so "
            "few are too narrow"
        )


def _evaluation(rows: Sequence[CaseRow]) -> Iterator[str]:
    measured = any(row.truth for row in rows)
    for what in ("labels", "landmarks"):
        without = [row.name for row in rows if getattr(row, f"fixed_{what}") is None]
        measured |= len(without) < len(rows)
        if without and len(without) < len(rows):
            yield (
                f"{len(without)} of {len(rows)} cases have no {what} "
                f"({_some(without)}): they do not "
                f"count in scores of {what}"
            )
    if not measured:
        yield (
            "no case has labels, landmarks or a true transform: methods are compared by similarity "
            "alone, which says "
            "little about accuracy"
        )


def _contrast(rows: Sequence[CaseRow], contenders: Sequence[Contender]) -> Iterator[str]:
    same = [c.name for c in contenders if _needs_one_contrast(c)]
    if not same:
        return
    for row in rows[:_LOOKED_AT]:
        try:
            kinds = {looks_like_ct(read_image(path).data) for path in (row.fixed, row.moving)}
        except (OSError, ValueError):
            continue  # costs its own case
        if len(kinds) == 2:
            yield (
                f"{', '.join(same)}: for images of one contrast, and {row.name} is of a CT and "
                "another image"
            )
            return


def _needs_one_contrast(contender: Contender) -> bool:
    source = contender.source
    described = isinstance(source, (str, Path, Mapping)) and not contender.pattern
    declared = load_intent(source).same_contrast if described else None
    if declared is None and not contender.pattern:
        same = (getattr(part, "same_contrast", False) for part in parts(_method(contender)))
        declared = any(same)
    return bool(declared)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
