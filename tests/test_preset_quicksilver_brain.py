"""The packaged network for brains: what it may be used for, and that it gives one geodesic without folds."""

from __future__ import annotations

from hybridreg.config import load_intent, load_method
from hybridreg.evaluation import target_registration_error
from hybridreg.geodesics import GeodesicTransform
from hybridreg.io.checkpoints import read_checkpoint
from hybridreg.phantoms import head_case
from hybridreg.transforms import IDENTITY, AffineTransform, parts_of
from hybridreg.warping import jacobian_determinant


def test_it_is_for_two_persons_and_one_contrast_and_its_weights_for_non_commercial_use():
    intent = load_intent("quicksilver-brain")
    assert intent.same_subject is False and intent.same_contrast
    checkpoint = read_checkpoint("quicksilver-brain", kind="quicksilver")
    assert "NC" in checkpoint.card.weights_licence and "OASIS" in checkpoint.card.data
    assert "narrow" in checkpoint.card.architecture
    assert checkpoint.path.parent.name == "noncommercial"
    assert not set(checkpoint.card.split["train"]) & set(checkpoint.card.split["validation"])


def test_a_turned_phantom_is_aligned_by_an_affine_after_a_geodesic_without_folds():
    turn = {"angles_deg": (4.0, -3.0, 5.0), "translation_mm": (5.0, -4.0, 6.0)}
    case = head_case(fixed="t1", moving="t1", spacing_mm=4.0, **turn)
    found = load_method("quicksilver-brain").register(case.pair)
    affine, geodesic = parts_of(found.transform)
    assert isinstance(affine, AffineTransform) and isinstance(geodesic, GeodesicTransform)
    before, after = (
        target_registration_error(t, case.fixed_landmarks, case.moving_landmarks).median().item()
        for t in (IDENTITY, found.transform)
    )
    assert after < 1.5 < before / 2
    assert jacobian_determinant(found.transform, case.pair.fixed.grid).data.min() > 0
    points = case.fixed_landmarks.points
    assert (found.inverse(found.transform(points)) - points).norm(dim=-1).mean() < 0.4
    assert found.doubts  # a skull, unlike the training
