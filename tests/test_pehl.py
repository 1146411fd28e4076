"""PEHL: placement, residuals, points and regressors of the phantom implant, whose pose is known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hybridreg.config import load_training
from hybridreg.drr import Projector, attenuation
from hybridreg.exposure import saturated
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.images import write_image
from hybridreg.io.radiographs import write_geometry
from hybridreg.methods.pehl import Pehl
from hybridreg.methods.pehl.backgrounds import backgrounds, bodies, tissue, varied
from hybridreg.methods.pehl.network import Regressor, trained_network
from hybridreg.methods.pehl.placement import GROUPS, Placement, before, corrected
from hybridreg.methods.pehl.residuals import (
    covering,
    crops,
    regions,
    residual,
    shifted,
)
from hybridreg.methods.pehl.samples import Ranges, _elsewhere
from hybridreg.phantoms.implant import (
    LENGTH_MM,
    depth,
    implant,
    implant_arm,
    implant_case,
    implant_corners,
    implant_grid,
)
from hybridreg.poses import pose, projection_error
from hybridreg.projection_pair import ProjectionPair
from hybridreg.radiographs import Detector
from hybridreg.training import train
from hybridreg.transforms import AffineTransform

CENTER = torch.tensor([15.9, -2.2, 16.9], dtype=torch.float64)
SIX = torch.tensor([4.0, -6.0, 25.0, 12.0, 8.0, -9.0], dtype=torch.float64)
SIZE = {"width_mm": 18.0, "pixels": 8}


def view(primary: float = 0.0) -> Detector:
    return implant_arm(120, 2.0, primary)


@pytest.mark.parametrize("primary", [0.0, 65.0])
def test_the_six_parameters_and_a_pose_are_the_same(primary):
    placement = Placement(view(primary), CENTER)
    matrix = placement.matrices(SIX)
    torch.testing.assert_close(placement.parameters(matrix), SIX)
    there = AffineTransform(matrix).inverse()
    middle = placement.frame.T @ there(CENTER[None])[0]  # in the axes of the view
    torch.testing.assert_close(middle, SIX[[0, 1, 3]])
    straight = AffineTransform(placement.matrices(torch.zeros(6)))
    torch.testing.assert_close(straight.linear, torch.eye(3, dtype=torch.float64))
    turned = AffineTransform(placement.matrices(torch.tensor([0.0, 0, 30, 0, 0, 0]))).inverse()
    ahead = placement.frame.T @ turned((CENTER + placement.frame[:, 0])[None])[0]
    expected = torch.tensor([30.0]).deg2rad()
    torch.testing.assert_close(ahead[:2].float(), torch.cat([expected.cos(), expected.sin()]))


def test_an_error_in_the_plane_turns_with_the_object():
    error = torch.tensor([1.0, 2, 10, 3, 4, 5], dtype=torch.float64)
    quarter = torch.tensor([0.0, 0, 90, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(
        corrected(quarter, error), torch.tensor([-2.0, 1, 100, 3, 4, 5], dtype=torch.float64)
    )
    torch.testing.assert_close(before(corrected(SIX, error), error), SIX)


@pytest.mark.parametrize("primary", [0.0, 65.0])
def test_regions_lie_around_the_shadows_of_their_points(primary):
    placement, points = Placement(view(primary), CENTER), implant_corners()
    at = regions(placement, SIX[None], points, **SIZE)[0]
    back = AffineTransform(placement.matrices(SIX)).inverse()
    detector = placement.detector
    shadows = AffineTransform(detector.grid.physical_to_voxel())(detector.shadows(back(points)))
    torch.testing.assert_close(at.mean((1, 2)), shadows[:, :2], atol=1e-6, rtol=0)
    step = (at[0, 0, 1] - at[0, 0, 0]) * torch.tensor(detector.grid.spacing[:2])
    nearer = 1000 / (700 - SIX[3].item())
    assert step.norm().item() == pytest.approx(18 / 8 * nearer)
    assert torch.atan2(step[1], step[0]).rad2deg().item() == pytest.approx(25)


def test_a_residual_is_0_at_the_true_pose_and_hardly_depends_on_the_place_of_the_object():
    ct = implant(implant_grid(2.0))
    placement, projector = Placement(implant_arm(240, 1.0), CENTER), Projector(attenuation(ct))
    points = torch.tensor([[46.4, -4.1, 45.3], [-4.7, 0, -43.5], [-12.1, 6.8, 7.6]]).double()

    def seen(true, estimate):
        images = projector(placement.detector, placement.matrices(torch.stack([estimate, true])))
        at = regions(placement, estimate[None], points, width_mm=18.0, pixels=26)
        a, b = (crops(image, at) for image in images)
        return residual(a, 3 * b + 7)  # of any scale and offset

    assert seen(SIX, SIX).abs().max() < 1e-4
    error = torch.tensor([1.0, 0, 0, 5, 4, 4], dtype=torch.float64)
    here, there = (
        seen(corrected(p, error), p)
        for p in (torch.zeros(6).double(), torch.tensor([3.0, -2, 30, 0, 0, 0]))
    )
    assert (here - there).square().mean() < 0.05 * here.square().mean()


def test_a_part_of_the_detector_gives_the_same_crops():
    placement = Placement(view(), CENTER)
    image = torch.rand(1, 120, 120)
    at = regions(placement, SIX[None], implant_corners()[:3], **SIZE)
    part = covering(placement.detector, at)
    assert part.shape[0] < 120
    start = shifted(torch.zeros(1, 2).double(), placement.detector, part)[0].neg().long()
    inner = image[:, start[1] : start[1] + part.shape[0], start[0] : start[0] + part.shape[1]]
    shown = crops(inner, shifted(at, placement.detector, part))
    torch.testing.assert_close(shown, crops(image, at))
    assert covering(placement.detector, at + 500) is None


def test_saturation_flattens_what_absorbs_most():
    found = saturated(torch.tensor([0.0, 0.5, 20.0]), 0.1)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.4427, 2.3979]), atol=1e-3, rtol=0)


def test_the_published_sizes_have_the_published_number_of_weights():
    sizes = {"points": 18, "pixels": 52, "channels": 20, "local": 100, "joint": 250}
    regressor = Regressor(**sizes, outputs=3)
    weights = [p for n, p in regressor.named_parameters() if p.ndim > 1 and "output" not in n]
    assert sum(p.numel() for p in weights) == 660_500
    assert regressor(torch.rand(2, 18, 52, 52)).shape == (2, 3)
    with pytest.raises(ValueError, match="16 at least"):
        Regressor(**{**sizes, "pixels": 15}, outputs=3)


@pytest.mark.gpu
def test_a_gpu_estimates_the_same_errors():
    network, residuals = trained_network("pehl-implant"), torch.randn(2, 16, 26, 26)
    for group in GROUPS:
        expected = network.cpu().errors(residuals, zone=0, group=group)
        found = network.cuda().errors(residuals.cuda(), zone=0, group=group)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_drawn_poses_and_errors_fill_their_ranges():
    random = torch.Generator().manual_seed(0)
    middle = torch.tensor([40.0, -20.0]).double()
    poses = Ranges().poses(4000, middle, 20.0, random)
    reach = torch.tensor([10, 10, 30, 20, 10, 10]).double()
    center = torch.tensor([0, 0, 0, 0, 40, -20]).double()
    assert ((poses - center).abs() <= reach).all()
    torch.testing.assert_close(poses.std(0), reach / 3**0.5, rtol=0.05, atol=0)
    errors = Ranges().drawn_errors(4000, "depth", random)
    assert errors.abs().amax(0).tolist() == pytest.approx(
        [0.15, 0.15, 0.5, 15, 0.75, 0.75], rel=0.01
    )
    # Half of them times a uniform factor: E|x| = 1/2 falls to (1/2 + 1/4) / 2.
    mixed = Ranges(small=0.5).drawn_errors(4000, "depth", random)
    assert (mixed / Ranges().reach("depth")).abs().mean().item() == pytest.approx(0.375, rel=0.03)


@pytest.mark.parametrize("kind", [tissue, bodies, backgrounds])
def test_backgrounds_vary_and_absorb(kind):
    found = kind(21, (60, 80), torch.Generator().manual_seed(0))
    assert found.shape == (21, 60, 80)
    assert found.min() >= 0 and 0.5 < found.mean() < 5
    assert found.std((1, 2)).min() > 0.05
    steep = torch.stack(torch.gradient(found, dim=(1, 2))).norm(dim=0).amax()
    assert kind is tissue or steep > 0.5  # outlines are sharp
    air = (found == 0).float().mean()
    assert (air > 0.05) == (kind is not tissue)


def test_a_background_is_another_one_at_every_use():
    places = torch.rand(200, 2, 4, 4, 2) * torch.tensor([79.0, 59.0])
    found = _elsewhere(places, (60, 80), torch.Generator().manual_seed(0))
    before, after = (at.flatten(1, 3) for at in (places, found))
    exactly = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    apart = [torch.cdist(at, at, **exactly) for at in (before, after)]
    zoom = (apart[1].sum((1, 2)) / apart[0].sum((1, 2)))[:, None, None]
    torch.testing.assert_close(apart[1], zoom * apart[0], rtol=1e-3, atol=0.05)  # similar
    assert 0.4 <= zoom.min() < 0.5 and 1.4 < zoom.max() <= 1.6
    spread = [at - at.mean(1, keepdim=True) for at in (before, after)]
    turns = torch.linalg.lstsq(*spread).solution.det().sign()
    assert 0.3 < (turns < 0).float().mean() < 0.7  # mirrored


def test_scattered_photons_flatten_metal_as_far_as_the_patient_is_thin():
    """Far below the noise of 4000 samples; the ratio of scattered to primary photons stays that
    drawn.
    """
    metal = torch.zeros(4000, 2, 4, 4)
    metal[..., 2:] = 8.0  # half of each region
    thick, thin = (
        varied(metal, torch.full_like(metal, depth), torch.Generator().manual_seed(0))
        for depth in (3.0, 0.0)
    )
    step = [(seen[..., 2:] - seen[..., :2]).mean() for seen in (thick, thin)]
    assert step[0] > 0.9 * step[1] > 1.0  # tissue in front of everything hides nothing


CONFIG = """
ct = "ct.nii.gz"
geometry = "arm.toml"
points = 3
pixels = 16
channels = 2
local = 4
joint = 8
pixel_mm = 3.0
samples = 32
batch_size = 8
steps_per_epoch = 4
optimizer = "adam"
learning_rate = 0.01
backgrounds = 4

[ranges]
centered = "pose"

[choice]
near_mm = 8.0
edges = 0.2
focus = 0.8
draws = 3
candidates = 60
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("training")
    write_image(made / "ct.nii.gz", implant(implant_grid(2.0)))
    write_geometry(made / "arm.toml", view())
    (made / "pehl.toml").write_text(CONFIG)
    return made


def test_points_lie_on_the_surface_and_their_regions_apart(folder):
    task = load_training("pehl", folder / "pehl.toml").task()
    (points,) = task.points
    assert points.shape == (3, 3)
    assert depth(points).abs().max() < 8  # a ray enters and leaves at most 8 mm away
    at = regions(task.placement, torch.zeros(1, 6), points, width_mm=18.0, pixels=16)[0]
    middles, side = at.mean((1, 2)), 18 / 0.7 / 3
    for a in range(3):
        for b in range(a):
            shared = (1 - (middles[a] - middles[b]).abs() / side).clamp(min=0).prod()
            assert shared < 0.27
    many = replace(task.how, points=60)
    with pytest.raises(ValueError, match="ask for fewer points or smaller regions"):
        _ = replace(task, how=many).points


def test_a_training_ends_with_weights_that_estimate(folder, tmp_path):
    task = load_training("pehl", folder / "pehl.toml").task()
    path = train(task, tmp_path / "run", max_epochs=2)
    network = trained_network(path)
    torch.testing.assert_close(network.points, task.points)
    assert network.seen.source_to_detector_mm == pytest.approx(1000)
    case = implant_case(pose((0,) * 6), view(), ct_mm=2.0)
    result = Pehl(str(path), iterations=2).register(case.pair)
    assert [entry.iteration for entry in result.trace] == list(range(2 * len(GROUPS)))
    again = (
        task.batch(torch.Generator().manual_seed(3)),
        task.batch(torch.Generator().manual_seed(3)),
    )
    for name, values in again[0].items():
        assert torch.equal(values, again[1][name])


def test_samples_pair_a_residual_with_the_error_that_made_it(folder):
    task = load_training("pehl", folder / "pehl.toml").task()
    still = replace(task.how.ranges, errors=((1e-9,) * 6,) * 3)
    clean = replace(task, how=replace(task.how, ranges=still, blur_mm=0.0))
    for group, pool in clean._pool(0, 8).items():
        # Without an error the projection at the estimate is that at the true pose.
        torch.testing.assert_close(pool.projected, pool.shadows)
        assert pool.targets.shape == (8, len(GROUPS[group]))


def test_rendered_samples_are_read_from_the_cache(folder, tmp_path):
    task = load_training("pehl", folder / "pehl.toml").task()
    cached = replace(task, how=replace(task.how, cache=tmp_path / "cache"))
    made, plain = cached._pool(0, 4), task._pool(0, 4)
    assert len(list((tmp_path / "cache").iterdir())) == len(GROUPS)
    again = replace(cached)._pool(0, 4)
    for group in GROUPS:
        for name, values in vars(plain[group]).items():
            assert torch.equal(getattr(made[group], name), values)
            assert torch.equal(getattr(again[group], name), values)
    assert cached.settings == task.settings
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged .* remove it"):
        replace(cached)._pool(0, 4)


@pytest.fixture(scope="module")
def scene():
    placement = Placement(implant_arm(), torch.tensor([15.89, -2.19, 16.89]))
    true = AffineTransform(placement.matrices(torch.tensor([3.0, 5, -20, 10, 6, -4])))
    return placement, implant_case(true, implant_arm())


def test_trained_regressors_find_the_implant_over_a_background(scene):
    placement, case = scene
    (clean,) = case.pair.fixed
    behind = backgrounds(1, clean.detector.shape, torch.Generator().manual_seed(99))
    pair = replace(case.pair, fixed=(replace(clean, data=clean.data + behind),))
    six = placement.parameters(case.true_transform.matrix)
    off = torch.tensor([1.0, -1, 2, 8, 7, -8], dtype=torch.float64)
    start = AffineTransform(placement.matrices(six + off))
    errors = []
    for found in (start, *(Pehl(iterations=n).register(pair, start).transform for n in (1, 3))):
        view = clean.detector
        errors.append(projection_error(found, case.true_transform, implant_corners(), view).mean())
    assert errors[2] < 0.015 * LENGTH_MM < errors[0]
    assert errors[2] < errors[1] < errors[0]


def test_what_the_regressors_were_not_trained_for_is_refused(scene):
    _, case = scene
    ct, (radiograph,) = case.pair.moving, case.pair.fixed
    moved = Image(ct.data, Grid(ct.grid.shape, ct.grid.spacing, (0.0, 0.0, 0.0)))
    thicker = implant(implant_grid(), hu=20_000.0)
    far = Detector.of_c_arm(
        (320, 320), (0.75, 0.75), source_to_detector=1500, source_to_isocenter=900
    )
    method = Pehl()
    for pair, message in (
        (ProjectionPair(radiograph, moved), "does not show the object of the training"),
        (ProjectionPair(radiograph, thicker), "absorbs"),
        (ProjectionPair(replace(radiograph, detector=far), ct), "train with this geometry"),
        (ProjectionPair((radiograph, radiograph), ct), "one radiograph"),
    ):
        with pytest.raises(ValueError, match=message):
            method.register(pair, case.true_transform)
    with pytest.raises(ValueError, match="for 'fusion-fast'"):
        Pehl("fusion-fast").register(case.pair, case.true_transform)
    with pytest.raises(ValueError, match="1 or more"):
        Pehl(iterations=0)


@pytest.mark.parametrize("name", ["pehl-implant", "pehl-published"])
def test_the_recipes_load(name):
    folder = Path(__file__).parent.parent / "examples" / "training"
    settings = load_training("pehl", folder / f"{name}.toml")
    assert settings.geometry.is_file()
    published = name == "pehl-published"
    assert (settings.samples, settings.pixels) == ((25_000, 52) if published else (10_000, 26))
    assert settings.ranges.errors == Ranges().errors
