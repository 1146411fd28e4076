"""File names, which may be those of patients, reach results only where they are asked for."""

import json
import logging
import os
from dataclasses import dataclass

import nibabel
import numpy as np
import pytest

import hybridreg
from hybridreg.io.files import named_by_role
from hybridreg.io.images import write_image
from hybridreg.methods.base import RegistrationResult
from hybridreg.phantoms import blobs
from hybridreg.transforms import IDENTITY


@dataclass(frozen=True)
class Stays:
    def register(self, pair, initial=IDENTITY):
        return RegistrationResult(initial)


@pytest.mark.parametrize("name", ["smith_john", os.fsdecode(b"sm\xffith")], ids=["text", "bytes"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_warning_of_a_file_calls_it_by_its_role(tmp_path, monkeypatch, name, keep):
    """The mask is labels, so reading it warns; a name may hold bytes that are no text."""
    # Log lines that are no text cannot be sent between the processes of the tests.
    monkeypatch.setattr(logging.getLogger("hybridreg"), "propagate", False)
    case = blobs(dimension=3)
    paths = {}
    for side in ("fixed", "moving"):
        paths[side] = tmp_path / f"{name}_{side}.nii.gz"
        write_image(paths[side], getattr(case.pair, side))
    affine = nibabel.load(paths["fixed"]).affine
    labels = np.ones(case.pair.fixed.grid.size, np.int16)
    labels[:5] = 7
    mask = tmp_path / f"{name}_mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, affine), mask)
    outcome = hybridreg.register(
        paths["fixed"], paths["moving"], Stays(), fixed_mask=mask, keep_identifiers=keep
    )
    assert any("2 values from 1 to 7" in warning for warning in outcome.warnings)
    out = outcome.save(tmp_path / "out")
    stem = name.encode("utf-8", "backslashreplace").decode()
    for file in ("result.json", "report.html", "log.txt"):
        text = (out / file).read_text(encoding="utf-8")
        found = stem in text or json.dumps(name).strip('"') in text
        assert found == keep, file
        if not keep and file == "log.txt":
            assert "fixed_mask: this mask has" in text


def test_a_path_is_replaced_with_what_lies_below_it_and_words_are_not():
    roles = {"/data/ct": "moving", "/data/ct/mr.nii": "fixed", "mr": "moving"}
    text = "/data/ct/1.dcm: odd; /data/ct/mr.nii is mr, see smr, mr.gz and '/data/ct'"
    expected = "moving: odd; fixed is moving, see smr, moving and 'moving'"
    assert named_by_role(text, roles) == expected
