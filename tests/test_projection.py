"""2D/3D registration of an implant in closed form whose true pose is known."""

import numpy as np
import pytest
import torch

from hybridreg.drr import Projector, attenuation
from hybridreg.geometry import Grid
from hybridreg.gradient_correlation import GradientCorrelation
from hybridreg.images import Image
from hybridreg.methods.combine import Chain
from hybridreg.methods.projection import CASCADE, Projection
from hybridreg.phantoms.implant import LENGTH_MM, depth, implant, implant_corners
from hybridreg.poses import pose, pose_error, projection_error
from hybridreg.projection_pair import ProjectionPair
from hybridreg.radiographs import Detector, Radiograph
from hybridreg.similarity import MI
from hybridreg.transforms import AffineTransform, DisplacementField, rigid

GRID = Grid((48, 26, 42), (2.5, 2.5, 2.5), (-36.0, -34.0, -62.0))
TRUE = pose((12.0, -20.0, 35.0, 12.0, -2.0, 3.0))


def detector(primary: float = 0.0) -> Detector:
    return Detector.of_c_arm(
        (66, 60),
        (3.0, 3.0),
        source_to_detector=1000.0,
        source_to_isocenter=700.0,
        primary_deg=primary,
    )


def scene(*primary: float) -> ProjectionPair:
    ct = implant(GRID)
    projector = Projector(attenuation(ct))
    return ProjectionPair([projector.radiograph(detector(a), TRUE) for a in primary], ct)


def off(degrees, millimeters) -> AffineTransform:
    return AffineTransform(TRUE.matrix @ rigid(degrees, millimeters, (0, 0, 0)).matrix)


def error_mm(found, view=None) -> float:
    return projection_error(found, TRUE, implant_corners(), view or detector()).mean().item()


def test_gradient_correlation_is_0_for_equal_edges_and_1_for_none_in_common():
    x = torch.rand(1, 30, 40, generator=torch.Generator().manual_seed(0))
    assert GradientCorrelation()(x, 3 * x + 7).item() == pytest.approx(0, abs=1e-6)
    assert GradientCorrelation()(x, -x).item() == pytest.approx(2, abs=1e-6)
    other = torch.rand(1, 30, 40, generator=torch.Generator().manual_seed(1))
    expected = 1 - np.mean(
        [
            np.corrcoef(*(np.gradient(i[0].numpy(), axis=a).ravel() for i in (x, other)))[0, 1]
            for a in (0, 1)
        ]
    )
    assert GradientCorrelation()(x, other).item() == pytest.approx(expected, abs=1e-5)


def test_the_implant_fills_its_box_and_has_no_symmetry():
    grid = Grid((120, 40, 70), (1.0, 1.0, 1.0), (-20.0, -21.0, -61.0))
    inside = grid.points()[depth(grid.points()) > 0]
    corners = implant_corners()
    for found, box in ((inside.amin(0), corners.amin(0)), (inside.amax(0), corners.amax(0))):
        assert (found - box).abs().max() <= 1
    assert LENGTH_MM == pytest.approx((corners[0] - corners[-1]).norm().item())
    for axis in range(3):
        mirrored = inside.clone()
        mirrored[:, axis] = inside[:, axis].min() + inside[:, axis].max() - mirrored[:, axis]
        assert (depth(mirrored) > 0).double().mean() < 0.9
    image = implant(grid, transform=rigid([0, 0, 0], [1, 0, 0], (0, 0, 0)), hu=5000.0)
    assert (image.data.max(), image.data.min()) == (5000, -1000)


@pytest.mark.parametrize(("optimizer", "pixels"), [("powell", (2.0,)), ("l-bfgs", (4.0, 2.0, 1.0))])
def test_two_views_find_the_pose_in_space(optimizer, pixels):
    pair, start = scene(0.0, 80.0), off([3, -4, 5], [3, -2, 4])
    method = Projection(optimizer=optimizer, pixels=pixels, iterations=12)
    result = method.register(pair, start)
    rotation, shift = pose_error(result.transform, TRUE)
    assert rotation < 0.3 and shift < 0.3
    assert error_mm(result.transform) < 0.003 * LENGTH_MM
    assert error_mm(start) > 5
    points = implant_corners()
    torch.testing.assert_close(result.transform(result.inverse(points)), points)
    values = [entry.terms["measure"] for entry in result.trace]
    assert values[-1] <= values[0]


def test_mutual_information_then_gradient_correlation_find_it_in_one_view():
    pair, start = scene(0.0), off([4, 5, -8], [5, 6, 5])
    stages = [Projection(s.measure, pixels=(2.0,), iterations=6) for s in CASCADE]
    assert [type(stage.measure) for stage in stages] == [MI, GradientCorrelation]
    result = Chain(tuple(stages)).register(pair, start)
    assert error_mm(result.transform) < 0.01 * LENGTH_MM  # what Miao 2016 counts as a success
    assert error_mm(start) > 10


def test_pairs_and_starts_that_make_no_sense_are_refused():
    pair = scene(0.0)
    method = Projection(pixels=(4.0,))
    with pytest.raises(ValueError, match="no ray meets the CT"):
        method.register(pair, off([0, 0, 0], [900, 0, 0]))
    with pytest.raises(ValueError, match="scales by"):
        method.register(pair, AffineTransform(torch.diag(torch.tensor([2.0, 2, 2, 1]))))
    with pytest.raises(ValueError, match="DisplacementField"):
        method.register(pair, DisplacementField(torch.zeros(3, *GRID.shape), GRID))
    with pytest.raises(ValueError, match="powell or l-bfgs"):
        Projection(optimizer="adam")
    with pytest.raises(ValueError, match="factors of 1 or more"):
        Projection(pixels=())
    with pytest.raises(ValueError, match="at least one radiograph"):
        ProjectionPair((), pair.moving)
    with pytest.raises(ValueError, match="3D volume of one channel"):
        ProjectionPair(pair.fixed, Image(torch.rand(2, 4, 4, 4), Grid((4, 4, 4))))
    with pytest.raises(ValueError, match="radiograph 1 is constant"):
        ProjectionPair(Radiograph(torch.ones(60, 66), detector()), pair.moving)
