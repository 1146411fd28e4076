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
_MORE = ("PositionerMotion", "PixelIntensityRelationship", "PixelIntensityRelationshipSign")
_FLUOROSCOPY = ("XA", "RF")
_KINDS = (*_FLUOROSCOPY, "DX", "CR", "PX")


def read_dicom_radiograph(
    path: str | os.PathLike, *, detector: Detector | None = None, frame: int | None = None
) -> Radiograph:
    """One frame of a radiograph or film; larger numbers where more was absorbed.

    detector: instead of the geometry in the header, whose missing fields are named (ValueError).
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
        if detector is None:
            detector = _detector(header)
        ((_, stored),) = stored_pixels([chosen])
        values = stored * chosen.slope + chosen.intercept
        return Radiograph(torch.from_numpy(_absorption(values, header)), detector)


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


def _detector(header: Frame) -> Detector:
    missing = [f"{key} {tag}" for key, tag in _NEEDED.items() if key not in header.fields]
    if missing:
        raise ValueError(
            f"its header lacks {', '.join(missing)}, so it does not say where detector and source "
            "were: give a geometry file"
        )
    if header.text("PositionerMotion") == "DYNAMIC":
        raise ValueError(
            "the C-arm moved while it was taken (PositionerMotion is DYNAMIC), and each frame has a "
            "geometry of its own: give a geometry file"
        )
    spacing = header.numbers("ImagerPixelSpacing", 2)  # between rows, between columns
    numbers = {key: header.numbers(key, 1).item() for key in list(_NEEDED)[1:]}
    return Detector.of_c_arm(
        (header.whole("Columns"), header.whole("Rows")),
        spacing[::-1].tolist(),
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
