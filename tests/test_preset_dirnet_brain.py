"""The packaged network for brains: what it may be used for, and that it brings two phantoms closer."""

from __future__ import annotations

import torch

from hybridreg.config import load_intent, load_method
from hybridreg.evaluation import target_registration_error
from hybridreg.io.checkpoints import read_checkpoint
from hybridreg.phantoms import head_case
from hybridreg.transforms import IDENTITY
from hybridreg.warping import jacobian_determinant


def test_it_is_for_two_persons_and_one_contrast():
    intent = load_intent("dirnet-brain")
    assert intent.same_subject is False and intent.same_contrast


def test_its_weights_are_for_non_commercial_use_and_say_what_made_them():
    checkpoint = read_checkpoint("dirnet-brain", kind="dirnet")
    assert "NC" in checkpoint.card.weights_licence and "OASIS" in checkpoint.card.data
    assert checkpoint.path.parent.name == "noncommercial"
    license = (checkpoint.path.parent / "LICENSE").read_text(encoding="utf-8")
    assert "Neuromorphometrics" in license and "NonCommercial" in license
    assert not set(checkpoint.card.split["train"]) & set(checkpoint.card.split["validation"])


def test_a_turned_phantom_is_aligned_without_folds_though_it_is_no_brain():
    turn = {"angles_deg": (4.0, -3.0, 5.0), "translation_mm": (5.0, -4.0, 6.0)}
    case = head_case(fixed="t1", moving="t1", spacing_mm=4.0, **turn)
    found = load_method("dirnet-brain").register(case.pair)
    before, after = (
        target_registration_error(t, case.fixed_landmarks, case.moving_landmarks).median().item()
        for t in (IDENTITY, found.transform)
    )
    assert after < 1.5 < before / 2
    assert jacobian_determinant(found.transform, case.pair.fixed.grid).data.min() > 0
    assert torch.isfinite(found.transform(case.pair.fixed.grid.points())).all()
    assert found.doubts  # 4 mm voxels, and a skull
