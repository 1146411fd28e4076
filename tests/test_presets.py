"""Every preset registers a phantom head of the kind that it is meant for."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridreg.config import load_intent, load_method, presets, with_settings
from hybridreg.evaluation import target_registration_error
from hybridreg.phantoms import head_case
from hybridreg.phantoms.implant import LENGTH_MM, implant_arm, implant_case, implant_corners
from hybridreg.poses import pose, projection_error
from hybridreg.transforms import IDENTITY, AffineTransform, rigid
from hybridreg.warping import jacobian_determinant

TURN = {"angles_deg": (4.0, -3.0, 5.0), "translation_mm": (5.0, -4.0, 6.0), "spacing_mm": 4.0}
BENT = {**TURN, "deformation_mm": 4.0}
FLAT = {"dimension": 2, "angles_deg": (5.0,), "translation_mm": (5.0, -4.0), "deformation_mm": 4.0}
ONE, TWO = {"fixed": "t1", "moving": "t1"}, {"fixed": "ct", "moving": "t1"}
TWO_MR = {"fixed": "t1", "moving": "t2"}
# Of presets without a test file of their own: the phantom, and the median error in mm that is
# allowed, a quarter of a voxel for linear ones. B-splines take a minute in 3D and seconds in 2D.
PHANTOMS = {
    "affine": ({**ONE, **TURN}, 1.0),
    "affine-fast": ({**ONE, **TURN}, 1.0),
    "brain-any-contrast": ({**TWO_MR, **BENT}, 1.5),
    "brain-any-contrast-mind": ({**TWO_MR, **BENT}, 1.5),
    "brain-best": ({**ONE, **BENT}, 1.5),
    "brain-fast": ({**ONE, **BENT}, 1.5),
    "brain-lddmm": ({**ONE, **BENT}, 1.5),
    "brain-mr": ({**ONE, **FLAT}, 1.0),
    "brain-mr-rigid": ({**ONE, **TURN}, 1.0),
    "bspline": ({**ONE, **FLAT}, 1.0),
    "demons": ({**ONE, **BENT}, 1.5),
    "demons-features": ({**ONE, **BENT}, 1.5),
    "features-elastix-mind": ({**ONE, **FLAT}, 1.0),
    "hammer": ({**ONE, **BENT}, 1.5),
    "deformable": ({**ONE, **BENT}, 1.5),
    "deformable-2d": ({**ONE, **FLAT}, 1.0),
    "rigid": ({**TWO, **TURN}, 1.0),
    "rigid-fast": ({**TWO, **TURN}, 1.0),
}

# Presets of radiographs: the error on the detector that is allowed, as a fraction of the implant's
# length.
RADIOGRAPHS = {"pehl-implant": 0.015, "projection": 0.01, "projection-hybrid": 0.01}


def test_every_preset_is_run_here_or_in_a_file_of_its_own():
    own = {path.stem for path in Path(__file__).parent.glob("test_preset_*.py")}
    left = {name for name in presets() if f"test_preset_{name.replace('-', '_')}" not in own}
    assert left == {*PHANTOMS, *RADIOGRAPHS}


@pytest.mark.parametrize("name", sorted(PHANTOMS))
def test_a_preset_finds_the_truth_of_a_phantom_without_folds(name):
    how, allowed_mm = PHANTOMS[name]
    case = head_case(**how)
    method = with_settings(load_method(name), threads=1)
    found = method.register(case.pair).transform
    before, after = (
        target_registration_error(t, case.fixed_landmarks, case.moving_landmarks).median().item()
        for t in (IDENTITY, found)
    )
    assert after < allowed_mm < before / 2
    assert jacobian_determinant(found, case.pair.fixed.grid).data.min() > 0
    assert load_intent(name)


@pytest.mark.parametrize("name", sorted(RADIOGRAPHS))
def test_a_preset_of_radiographs_finds_the_pose_of_the_implant(name):
    true, view = pose((4.0, 8.0, -3.0, 12.0, -2.0, 1.0)), implant_arm(160, 1.4)
    case = implant_case(true, view, ct_mm=2.0)
    away = rigid((3.0, -2.0, 2.0), (1.0, 3.0, -1.5), (0, 0, 0))
    start = AffineTransform(true.matrix @ away.matrix)
    found = load_method(name).register(case.pair, start).transform
    before, after = (
        projection_error(t, true, implant_corners(), view).mean().item() for t in (start, found)
    )
    assert after < RADIOGRAPHS[name] * LENGTH_MM < before / 2
