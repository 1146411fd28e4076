"""One DICOM image by its header: the used fields, its position in the patient or why it has none.

A frame is one slice: a whole file, or one frame of an enhanced multi-frame file. Only the header
fields that are named here are ever read; none of them identifies the patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybridreg.io.dicom_geometry import MAX_VOXELS

_RIGHT_ANGLE = 1e-3  # of products of cosines that are rounded to 4 digits
_FAR_MM = 1e5
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and of many frames: .1 to .4
_PIXELS_PER_BYTE = 10_000  # above the compression ratio of any codec, even of an empty image
# Fields that can distinguish volumes at the same location, and their names in messages; the first
# that does is used, so that an addition at the end renumbers no volumes.
CRITERIA = {
    "EchoTime": "echo time",
    "EffectiveEchoTime": "echo time",
    "InversionTime": "inversion time",
    "TemporalPositionIdentifier": "time point",
    "TemporalPositionIndex": "time point",
    "TriggerTime": "trigger time",
    "NominalCardiacTriggerDelayTime": "trigger delay",
    "DiffusionBValue": "b-value",
    "KVP": "tube voltage",
    "ConvolutionKernel": "kernel",
    "ImageType": "image type",
    "FrameType": "image type",
    "AcquisitionNumber": "acquisition number",
    "FrameAcquisitionNumber": "acquisition number",
    "FrameReferenceTime": "frame reference time",
    "NominalPercentageOfCardiacPhase": "cardiac phase",
    "DiffusionGradientOrientation": "diffusion gradient",
    "FlipAngle": "flip angle",
    "RepetitionTime": "repetition time",
    "ComplexImageComponent": "image component",
    "SequenceName": "sequence",
    "AcquisitionTime": "acquisition time",
}
FIELDS = (
    "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality",
    "FrameOfReferenceUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ImagePositionPatient", "PixelSpacing",
    "ImageOrientationPatient", "ImagerPixelSpacing", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "ModalityLUTSequence", "StackID", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "InstanceNumber", *CRITERIA,
)  # fmt: skip

_KINDS_WITHOUT_VOLUME = {
    "RTSTRUCT": "contours (RTSTRUCT)",
    "RTPLAN": "a treatment plan (RTPLAN)",
    "RTDOSE": "a radiation dose (RTDOSE)",
    "SEG": "a segmentation (SEG)",
    "SR": "a report (SR)",
    "REG": "a registration (REG)",
    "PR": "a presentation state (PR)",
    "KO": "a selection of key images (KO)",
    "ECG": "an electrocardiogram (ECG)",
}


@dataclass(frozen=True, eq=False)
class Frame:
    """One image as its header describes it.

    name: of its file, relative to the folder; "" where there is only one file.
    index: its number in the file, from 0; None where the file is a single image.
    fields: keyword -> value, absent where missing or empty.
    syntax: the transfer syntax UID, "" where the file does not say. size_bytes: of the file.
    has_pixels: whether any follow the header.
    """

    path: Path
    name: str
    fields: Mapping[str, Any]
    index: int | None = None
    syntax: str = ""
    size_bytes: int = 0
    has_pixels: bool = True

    def text(self, keyword: str) -> str:
        return _clean(self.fields.get(keyword, ""))

    def numbers(self, keyword: str, count: int) -> np.ndarray:
        """``count`` finite numbers, or ValueError; also from text separated by backslashes."""
        value = self.fields.get(keyword, [])
        parts = value.split("\\") if isinstance(value, str) else value
        if isinstance(parts, list) and any("," in str(part) for part in parts):
            raise ValueError(
                f"{keyword} is written with commas, where DICOM has decimal points: export it again"
            )
        try:
            values = np.array(parts, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            values = np.empty(0)
        if len(values) != count or not np.isfinite(values).all():
            raise ValueError(f"{keyword} should be {count} number(s): the header is damaged")
        return values

    def whole(self, keyword: str, default: int | None = None) -> int:
        if default is not None and keyword not in self.fields:
            return default
        return int(self.numbers(keyword, 1)[0])

    @property
    def slope(self) -> float:
        return float(self.numbers("RescaleSlope", 1)[0]) if "RescaleSlope" in self.fields else 1.0

    @property
    def intercept(self) -> float:
        known = "RescaleIntercept" in self.fields
        return float(self.numbers("RescaleIntercept", 1)[0]) if known else 0.0

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in _items(self.fields.get("ImageType"))

    @property
    def is_capture(self) -> bool:
        """Whether it is a screenshot, by its SOP class or image type."""
        kind = self.text("SOPClassUID")
        by_class = kind == _SECONDARY_CAPTURE or kind.startswith(f"{_SECONDARY_CAPTURE}.")
        return by_class or "SCREEN SAVE" in _items(self.fields.get("ImageType"))

    @property
    def is_derived(self) -> bool:
        return "DERIVED" in _items(self.fields.get("ImageType"))

    @property
    def label(self) -> str:
        number = "" if self.index is None else f"frame {self.index + 1}"
        return " of ".join(filter(None, (number, self.name)))

    @property
    def where(self) -> str:
        """The start of a message about this frame."""
        return f"{self.label}: " if self.label else ""


@dataclass(frozen=True, eq=False)
class Slice:
    """A frame with a position in the patient. axes: along a row, along a column, the normal."""

    frame: Frame
    position: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]
    traits: Mapping[str, Any]


def placed(frame: Frame) -> Slice:
    """The frame with its position; ValueError if it has none or cannot be read."""
    try:
        if reason := _no_slice(frame) or _unreadable(frame):
            raise ValueError(reason)
        position = frame.numbers("ImagePositionPatient", 3)
        row_step, column_step = frame.numbers("PixelSpacing", 2).tolist()
        if (
            min(row_step, column_step) <= 0
            or max(row_step, column_step, *np.abs(position)) > _FAR_MM
        ):
            raise ValueError("PixelSpacing or ImagePositionPatient is not in mm: it is damaged")
        return Slice(
            frame=frame,
            position=position,
            axes=_axes(frame.numbers("ImageOrientationPatient", 6)),
            spacing=(column_step, row_step),
            size=(frame.whole("Columns"), frame.whole("Rows")),
            traits={keyword: _trait(frame.fields.get(keyword)) for keyword in CRITERIA},
        )
    except ValueError as error:
        raise ValueError(f"{frame.where}{error}") from None


def _axes(cosines: np.ndarray) -> np.ndarray:
    """Unit vectors along a row, along a column and the normal, at exactly right angles; (3, 3)."""
    row, column = cosines.reshape(2, 3)
    deviation = np.abs([row @ row - 1, column @ column - 1, row @ column]).max()
    if deviation > _RIGHT_ANGLE:
        raise ValueError(
            "ImageOrientationPatient is not two unit vectors at right angles "
            f"(off by {deviation:.3g}): the header is damaged"
        )
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)])


def why_no_slice(frame: Frame) -> str:
    """Why an image or object is not a slice of a volume; "" if it may be one."""
    try:
        return _no_slice(frame)
    except ValueError:
        return ""  # a damaged header is refused later, not left out


def _no_slice(frame: Frame) -> str:
    modality = frame.text("Modality")
    if modality in _KINDS_WITHOUT_VOLUME:
        return f"it holds {_KINDS_WITHOUT_VOLUME[modality]}, not an image series"
    if "Rows" not in frame.fields or "Columns" not in frame.fields:
        return "it holds no image (no Rows and Columns)"
    colors = frame.text("PhotometricInterpretation")
    if frame.whole("SamplesPerPixel", 1) != 1 or colors == "PALETTE COLOR":
        return f"it is a color image ({colors}), not a slice with one number per pixel"
    if "MOSAIC" in _items(frame.fields.get("ImageType")):
        return "it is a mosaic, many slices in one picture: convert it with dcm2niix first"
    if frame.index is None and frame.whole("NumberOfFrames", 1) > 1:
        return (
            "it holds many frames without a place for each (a film or a projection); only enhanced "
            "CT, MR and PET say where their frames lie"
        )
    if "ImagePositionPatient" not in frame.fields or "ImageOrientationPatient" not in frame.fields:
        return (
            "it does not say where it lies in the patient (no ImagePositionPatient or "
            "ImageOrientationPatient), as radiographs and screenshots do not"
        )
    if "PixelSpacing" not in frame.fields:
        return "it has no PixelSpacing, so its size in the patient is unknown" + (
            " (ImagerPixelSpacing is that of the detector)"
            if "ImagerPixelSpacing" in frame.fields
            else ""
        )
    return "" if frame.has_pixels else "it holds no pixels"


def _unreadable(frame: Frame) -> str:
    """Why the values of this slice cannot be read reliably; "" if they can."""
    bits, stored = frame.whole("BitsAllocated"), frame.whole("BitsStored")
    if bits not in (8, 16, 32) or not 1 <= stored <= bits:
        return (
            f"its pixels have {stored} of {bits} bits: only whole numbers of 8, 16 or 32 are read"
        )
    if frame.whole("HighBit", stored - 1) != stored - 1:
        return "its pixels do not start at the lowest bit (HighBit): convert it with dcmconv first"
    if "ModalityLUTSequence" in frame.fields:
        return "its values go through a table (Modality LUT) that is not supported: export it again"
    if frame.text("Modality") == "CT" and "RescaleIntercept" not in frame.fields:
        return (
            "it is a CT without RescaleIntercept, so its numbers cannot be told in HU: "
            "export it again with its whole header"
        )
    if frame.slope == 0:
        return "its RescaleSlope is 0: the header is damaged"
    pixels = frame.whole("Rows") * frame.whole("Columns") * frame.whole("NumberOfFrames", 1)
    if min(frame.whole("Rows"), frame.whole("Columns")) < 1 or pixels > MAX_VOXELS:
        return f"its header gives a size of {pixels} pixels: the header is damaged"
    if pixels > frame.size_bytes * _PIXELS_PER_BYTE:
        return f"its header gives {pixels} pixels in {frame.size_bytes} bytes: it is damaged"
    return ""


def _items(value: Any) -> list[str]:
    return [_clean(item) for item in ([value] if isinstance(value, str) else value or ())]


def _clean(value: Any) -> str:
    """A short text without control characters."""
    return "".join(c for c in str(value) if c.isprintable()).strip()[:64]


def _trait(value: Any) -> Any:
    """A value that can be compared and shown: a number, or text."""
    if value is None:
        return ""
    try:
        return float(value)
    except (TypeError, ValueError):
        return "/".join(_items(value))
