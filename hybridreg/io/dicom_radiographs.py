"""Radiographs from DICOM: XA, RF and DX files, with the geometry of the C-arm from their header.

The header gives the distances from the source, the angles of the positioner and the pixels of the
detector; the ray through the isocenter is assumed to meet its center. PixelSpacing, which
may be calibrated to any depth in the patient, is not used.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import torch

from hybridreg.io.dicom_files import frames_in, quiet_pydicom, stored_pixels
from hybridreg.io.dicom_frames import Frame
from hybridreg.io.files import naming
from hybridreg.radiographs import Detector, Radiograph

_NEEDED = {  # keyword -> tag in the header of a C-arm
    "ImagerPixelSpacing": "(0018,1164)",
    "DistanceSourceToDetector": "(0018,1110)",
    "DistanceSourceToPatient": "(0018,1111)",
    "PositionerPrimaryAngle": "(0018,1510)",
    "PositionerSecondaryAngle": "(0018,1511)",
}
_MORE = (
    "PositionerMotion",
    "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign",
    "FieldOfViewRotation",
    "FieldOfViewHorizontalFlip",
)
_FLUOROSCOPY = ("XA", "RF")
_KINDS = (*_FLUOROSCOPY, "DX", "CR", "PX")


def read_dicom_radiograph(
    path: str | os.PathLike, *, detector: Detector | None = None, frame: int | None = None
) -> Radiograph:
    """One frame of a radiograph or film; larger numbers where more was absorbed.

    detector: of the image as it is stored, instead of the geometry in the header, whose missing
    fields are named (ValueError). Without it an image that was turned or flipped from how the
    detector recorded it (FieldOfViewRotation, FieldOfViewHorizontalFlip) is turned back.
    frame: which one of a film, from 0.
    Numbers that are linear in the X-rays become their negative logarithm; others are turned over
    where they fall with absorption.
    """
    with naming(path), quiet_pydicom():
        header = _header(Path(path))
        chosen = _chosen(Path(path), frame)
        if header.text("Modality") not in _KINDS:
            raise ValueError(
                f"its modality is {header.text('Modality') or 'not told'}, not one of "
                f"{', '.join(_KINDS)}: give a radiograph"
            )
        turns, flipped = _field_of_view(header)
        ((_, stored),) = stored_pixels([chosen])
        values = _absorption(stored * chosen.slope + chosen.intercept, header)
        if detector is None:
            detector = _detector(header, turned=turns % 2 == 1)
            values = np.rot90(values[:, ::-1] if flipped else values, turns).copy()
        return Radiograph(torch.from_numpy(values), detector)


def _header(path: Path) -> Frame:
    """The header with the fields of the geometry."""
    (first, *_) = frames_in(path, name="") or [None]
    if first is None:
        raise ValueError("it is DICOM without an image: give a radiograph")
    tags = [*_NEEDED, *_MORE]
    try:
        found = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
        fields = {e.keyword: list(e.value) if e.VM > 1 else e.value for e in found if e.VM}
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError):
        raise ValueError("its header is damaged: copy or export it again") from None
    return replace(first, fields={**first.fields, **fields})


def _chosen(path: Path, frame: int | None) -> Frame:
    frames = frames_in(path, name="")
    count = max(len(frames), frames[0].whole("NumberOfFrames", 1))
    if frame is None and count > 1:
        raise ValueError(f"it is a film of {count} frames: say which, from 0 (frame)")
    if not 0 <= (frame or 0) < count:
        raise ValueError(f"it has {count} frame(s), counted from 0; found {frame}")
    return frames[frame] if len(frames) > 1 else replace(frames[0], index=frame or 0)


def _field_of_view(header: Frame) -> tuple[int, bool]:
    """Quarter turns clockwise and then a flip, left to right,
    since the detector recorded the image.
    """
    turn = (
        header.numbers("FieldOfViewRotation", 1) if "FieldOfViewRotation" in header.fields else [0]
    )
    flip = header.text("FieldOfViewHorizontalFlip") or "NO"
    if turn[0] not in (0, 90, 180, 270) or flip not in ("YES", "NO"):
        raise ValueError(
            "FieldOfViewRotation (0018,7032) is 0, 90, 180 or 270 and FieldOfViewHorizontalFlip "
            "(0018,7034) YES or "
            f"NO; found {turn[0]:g} and {flip}: correct the header"
        )
    return int(turn[0]) // 90, flip == "YES"


def _detector(header: Frame, *, turned: bool) -> Detector:
    """turned: the stored image by 90 or 270 degrees."""
    missing = [f"{key} {tag}" for key, tag in _NEEDED.items() if key not in header.fields]
    if missing:
        raise ValueError(
            f"its header lacks {', '.join(missing)}, so it does not say where detector and source "
            "were: give a geometry file"
        )
    if header.text("PositionerMotion") == "DYNAMIC":
        raise ValueError(
            "the C-arm moved while it was taken (PositionerMotion is DYNAMIC), and "
            "each frame has a "
            "geometry of its own: give a geometry file"
        )
    spacing = header.numbers("ImagerPixelSpacing", 2)[::-1]  # along a row, along a column
    size = [header.whole("Columns"), header.whole("Rows")]
    way = -1 if turned else 1
    numbers = {key: header.numbers(key, 1).item() for key in list(_NEEDED)[1:]}
    return Detector.of_c_arm(
        size[::way],
        spacing[::way].tolist(),
        source_to_detector=numbers["DistanceSourceToDetector"],
        source_to_isocenter=numbers["DistanceSourceToPatient"],
        primary_deg=numbers["PositionerPrimaryAngle"],
        secondary_deg=numbers["PositionerSecondaryAngle"],
    )


def _absorption(values: np.ndarray, header: Frame) -> np.ndarray:
    if not _rises_with_rays(header):
        return (values - values.min()).astype(np.float32)
    if header.text("PixelIntensityRelationship") == "LIN":
        return np.log(max(values.max(), 1) / np.maximum(values, 1)).astype(np.float32)
    return (values.max() - values).astype(np.float32)


def _rises_with_rays(header: Frame) -> bool:
    """Whether larger values mean more X-rays, by the header or the usual display."""
    if "PixelIntensityRelationshipSign" in header.fields:
        return header.whole("PixelIntensityRelationshipSign") > 0
    dark_bone = header.text("Modality") in _FLUOROSCOPY
    return dark_bone == (header.text("PhotometricInterpretation") != "MONOCHROME1")
