"""DIRNet and DLIR: splines, stages, training from a case table, and registration by weights."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hybridreg.cases import Case, ImagePair
from hybridreg.config import load_method, load_training
from hybridreg.geometry import Grid, apply_matrix
from hybridreg.images import Image, LabelMap
from hybridreg.io.checkpoints import Card, write_checkpoint
from hybridreg.io.images import write_image
from hybridreg.methods.dirnet.affine import affine_displacement, affine_parts
from hybridreg.methods.dirnet.method import Dirnet, input_grid, spline_transform
from hybridreg.methods.dirnet.network import (
    Stage,
    StagedNetwork,
    composed,
    initialized,
    standardized,
)
from hybridreg.methods.dirnet.splines import bending, dense
from hybridreg.momentum import to_lps
from hybridreg.phantoms import blobs
from hybridreg.pipeline import run
from hybridreg.registry import TASKS
from hybridreg.testing import methods as contract
from hybridreg.training_domain import TrainingDomain
from hybridreg.transforms import IDENTITY, AffineTransform, compose, parts_of, rigid

OBLIQUE = {2: ((20.0,), (24, 32)), 3: ((20.0, -15.0, 10.0), (16, 24, 16))}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def oblique_grid(dimension: int, spacing_mm: float = 1.5) -> Grid:
    angles, shape = OBLIQUE[dimension]
    axes = rigid(angles, [0.0] * dimension, [0.0] * dimension).linear
    origin = (-30.0, 12.0, 50.0)[:dimension]
    return Grid(shape, (spacing_mm,) * dimension, origin, axes.tolist())


def random_network(dimension: int, stages, channels: int = 1, size: float = 1.0) -> StagedNetwork:
    """With heads that are not zero, so that it moves something."""
    network = initialized(StagedNetwork(dimension, channels, tuple(stages)), seeded())
    for regressor in network.regressors:
        torch.nn.init.normal_(regressor.head.weight, std=0.1 * size, generator=seeded(1))
    return network.eval()


def weights_of(network: StagedNetwork, path: Path, *, dimension: int, channels=1, **changes) -> str:
    stages = [vars(stage) for stage in network.settings]
    card = Card(
        kind="dirnet",
        architecture="for a test",
        training_grid="24 x 32 voxels",
        intensity_rule="0..2",
        data="phantoms",
        data_licence="CC0",
        weights_licence="CC0",
        split={},
        seed=0,
        validation={},
        arguments={"dimension": dimension, "channels": channels, "stages": stages},
        spacing_mm=1.5,
    )
    return str(write_checkpoint(path, network.state_dict(), card=replace(card, **changes)))


def pair_on(grid: Grid) -> ImagePair:
    """Two random smooth images that differ."""
    coarse = torch.rand(2, 1, *[4] * grid.dimension, generator=seeded(3))
    mode = {2: "bicubic", 3: "trilinear"}[grid.dimension]
    data = torch.nn.functional.interpolate(coarse, grid.shape, mode=mode, align_corners=False)
    return ImagePair(*(Image(2 * image, grid) for image in data.clamp(0, 1)))


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_dense_spline_of_training_is_the_transform_of_registration(dimension):
    grid, spacing = oblique_grid(dimension), 4
    control = torch.randn(dimension, *(n // spacing for n in grid.shape), generator=seeded())
    points = grid.points()
    moved = spline_transform(control, spacing, grid)(points) - points
    along = dense(control[None], spacing)[0]
    torch.testing.assert_close(
        moved, to_lps(along.double(), grid).movedim(0, -1), atol=1e-5, rtol=0
    )


def test_the_spline_ends_smoothly_at_the_border_of_its_support():
    grid = oblique_grid(2)
    transform = spline_transform(torch.full((2, 6, 8), 3.0), 4, grid)
    inverse = transform.grid.physical_to_voxel()
    line = (
        grid.center + torch.linspace(-60, 60, 2000, dtype=torch.float64)[:, None] * torch.eye(2)[0]
    )
    moved = (transform(line) - line).norm(dim=-1)
    assert moved.max() > 2
    assert moved.diff().abs().max() < 0.1  # 0.06 mm apart
    assert (moved[(apply_matrix(inverse, line) < 1).any(-1)] == 0).all()


@pytest.mark.parametrize("shape", [(6, 8), (3, 4, 5)])
def test_the_bending_energy_is_that_of_finite_differences(shape):
    spacing, dimension = 16, len(shape)
    control = torch.randn(1, dimension, *shape, generator=seeded(), dtype=torch.float64)
    control = torch.nn.functional.pad(control, [2] * 2 * dimension)  # zero at the border
    fine, total = dense(control, spacing), 0.0
    for a in range(dimension):
        for b in range(dimension):
            first = torch.gradient(fine, dim=a + 2)[0]
            second = torch.gradient(first, dim=b + 2)[0]
            total += second.square().sum(1).mean().item()
    assert bending(control, spacing).item() == pytest.approx(total, rel=0.05)


def test_the_bending_energy_of_a_linear_map_is_zero_inside():
    ramp = torch.arange(12.0).repeat(12, 1)
    at_border = bending(torch.stack([ramp, ramp])[None], 4)
    wave = bending(torch.stack([(ramp * 3).sin(), ramp * 0])[None], 4)
    assert 0 < wave
    smooth = torch.nn.functional.pad(torch.ones(1, 2, 4, 4), [4] * 4)
    assert bending(smooth, 4) < at_border


@pytest.mark.parametrize("dimension", [2, 3])
def test_an_affine_stage_moves_voxels_by_its_matrix_about_the_center(dimension):
    shape = (8, 12, 10)[-dimension:]
    count = dimension + (2 * dimension - 3) + dimension + dimension * (dimension - 1)
    parameters = 0.2 * torch.randn(1, count, generator=seeded(), dtype=torch.float64)
    matrix, shift = affine_parts(parameters[0], shape)
    grid = Grid(shape)
    wanted = AffineTransform.from_parts(matrix, shift, grid.center)(grid.points()) - grid.points()
    found = affine_displacement(parameters, shape)[0].movedim(0, -1)
    torch.testing.assert_close(found, wanted)
    assert torch.linalg.det(matrix) > 0


def test_affine_parameters_of_rotation_alone_rotate():
    quarter = torch.tensor([0.0, 0.0, torch.pi / 2, 0.0, 0.0, 0.0, 0.0])
    matrix, _ = affine_parts(quarter, (4, 4))
    torch.testing.assert_close(matrix, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("stage", [Stage(spacing=4), Stage(transform="affine", width=8)])
def test_a_new_network_starts_at_the_identity(stage):
    network = initialized(StagedNetwork(2, 1, (stage,)), seeded())
    fixed, moving = torch.rand(2, 1, 1, 16, 24, generator=seeded())
    assert network(fixed, moving).displacement.abs().max() == 0
    assert all(
        (p != 0).any() for n, p in network.named_parameters() if p.ndim > 1 and "head" not in n
    )


def test_the_published_width_has_the_parameters_of_the_published_layers():
    network = StagedNetwork(2, 1, (Stage(spacing=8, width=32, layers=5, dense=2),))
    layers = (2 * 9 + 1) * 32 + 4 * (32 * 9 + 1) * 32 + 2 * 33 * 32 + 33 * 2
    assert sum(p.numel() for p in network.parameters()) == layers


def test_limited_control_points_never_fold():
    stage = Stage(spacing=4, limited=True)
    network = random_network(2, [stage], size=1000)
    control = network(*torch.rand(2, 1, 1, 16, 24, generator=seeded())).outputs[0]
    assert control.abs().max() <= 0.4 * 4 and control.abs().max() > 1.5


def test_networks_do_not_see_brightness_and_contrast():
    network = random_network(2, [Stage(spacing=4)])
    fixed, moving = torch.rand(2, 1, 1, 16, 24, generator=seeded())
    first, second = (network(fixed, m).displacement for m in (moving, 3 * moving + 7))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    assert standardized(torch.full((1, 1, 4, 4), 5.0)).abs().max() == 0


def test_reduced_precision_leaves_displacements_exact():
    network = random_network(2, [Stage(transform="affine", width=8), Stage(spacing=4)], size=10)
    fixed, moving = torch.rand(2, 1, 1, 16, 24, generator=seeded())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = network(fixed, moving)
        exact = found.displacement
    assert found.outputs[-1].dtype == torch.bfloat16 and exact.dtype == torch.float32
    with torch.no_grad():
        control = dense(found.outputs[-1].float(), 4)
        assert torch.equal(exact, composed(found.before, control))


STAGES = {
    "spline": [Stage(spacing=4, width=8)],
    "shrunk": [Stage(spacing=8, shrink=2, width=8)],
    "affine": [Stage(transform="affine", width=8, layers=3)],
}


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("kind", STAGES)
def test_the_transform_in_space_is_what_the_network_says_in_voxels(dimension, kind, tmp_path):
    grid = oblique_grid(dimension)
    network = random_network(dimension, STAGES[kind])
    pair = pair_on(grid)
    method = Dirnet(weights_of(network, tmp_path / "n.safetensors", dimension=dimension))
    found = method.register(pair).transform
    images = ((image.data / 2)[None] for image in (pair.fixed, pair.moving))
    with torch.no_grad():
        along = network(*images).displacement[0]
    wanted = to_lps(1.5 * along.double(), grid).movedim(0, -1)
    assert wanted.abs().max() > 0.1
    points = grid.points()
    torch.testing.assert_close(found(points) - points, wanted, atol=1e-4, rtol=0)


def test_stages_are_composed_the_first_one_last(tmp_path):
    grid = oblique_grid(2)
    network = random_network(2, [*STAGES["affine"], *STAGES["spline"], *STAGES["shrunk"]])
    pair = pair_on(grid)
    weights = weights_of(network, tmp_path / "n.safetensors", dimension=2)
    found = Dirnet(weights).register(pair).transform
    kinds = [type(part).__name__ for part in parts_of(found)]
    assert kinds == ["AffineTransform", "BSplineTransform", "BSplineTransform"]
    images = ((image.data / 2)[None] for image in (pair.fixed, pair.moving))
    with torch.no_grad():
        along = network(*images).displacement[0]
    wanted = to_lps(1.5 * along.double(), grid).movedim(0, -1)[6:-6, 6:-6]
    points = grid.points()[6:-6, 6:-6]
    error = (found(points) - points - wanted).norm(dim=-1)
    swapped = compose(*reversed(parts_of(found)))
    assert error.mean() < 0.02  # interpolated between voxels
    assert (swapped(points) - points - wanted).norm(dim=-1).mean() > 5 * error.mean()


def test_a_repeated_stage_sees_what_it_has_left(tmp_path):
    stages, pair = [*STAGES["affine"], *STAGES["spline"]], pair_on(oblique_grid(2))
    once = random_network(2, stages)
    weights = weights_of(once, tmp_path / "once.safetensors", dimension=2)
    thrice = StagedNetwork(2, 1, (*stages, stages[-1], stages[-1]))
    for number in (0, 1, 2, 3):
        source = once.regressors[min(number, 1)]
        thrice.regressors[number].load_state_dict(source.state_dict())
    longer = weights_of(thrice, tmp_path / "thrice.safetensors", dimension=2)
    points = pair.fixed.grid.points()
    repeated = Dirnet(weights, repeats=3).register(pair).transform
    assert len(parts_of(repeated)) == 4
    assert torch.equal(repeated(points), Dirnet(longer).register(pair).transform(points))
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        Dirnet(weights, repeats=0)


def test_the_initial_transform_comes_before_the_network(tmp_path):
    grid = oblique_grid(2)
    pair = pair_on(grid)
    initial = rigid([5.0], [2.0, -1.0], grid.center)
    weights = weights_of(
        random_network(2, STAGES["spline"]), tmp_path / "n.safetensors", dimension=2
    )
    found = Dirnet(weights).register(pair, initial).transform
    first, last = parts_of(found)
    assert torch.equal(first.matrix, initial.matrix)
    points = grid.points()
    alone = Dirnet(weights).register(pair).transform
    assert (last(points) - alone(points)).norm(dim=-1).max() > 1e-3  # it saw the moved image


@pytest.mark.parametrize("shape", [(19, 30), (24, 32), (61, 25)])
def test_any_size_and_spacing_is_registered_and_repeats(shape, tmp_path):
    grid = Grid(shape, (0.7, 2.1), (10.0, -5.0))
    weights = weights_of(
        random_network(2, STAGES["shrunk"]), tmp_path / "n.safetensors", dimension=2
    )
    pair = pair_on(grid)
    first, second = (Dirnet(weights).register(pair).transform(grid.points()) for _ in range(2))
    assert torch.equal(first, second) and torch.isfinite(first).all()
    seen = input_grid(grid, 1.5, 8)
    assert seen.contains(grid.points()).all()
    assert all(n % 8 == 0 for n in seen.shape) and set(seen.spacing) == {1.5}


def test_its_inverse_leads_back(tmp_path):
    grid = oblique_grid(2)
    network = random_network(2, [Stage(spacing=4, width=8, limited=True)])
    weights = weights_of(network, tmp_path / "n.safetensors", dimension=2)
    transform = Dirnet(weights).register(pair_on(grid)).transform
    points = grid.points()[4:-4, 4:-4]
    assert (transform.inverse()(transform(points)) - points).norm(dim=-1).max() < 1e-3


def test_images_that_do_not_fit_the_weights_are_refused(tmp_path):
    weights = weights_of(
        random_network(2, STAGES["spline"]), tmp_path / "n.safetensors", dimension=2
    )
    with pytest.raises(ValueError, match="3 dimensions.*for 2"):
        Dirnet(weights).register(pair_on(oblique_grid(3)))
    pair = pair_on(oblique_grid(2))
    double = [Image(torch.cat([i.data, 1 - i.data]), i.grid) for i in (pair.fixed, pair.moving)]
    with pytest.raises(ValueError, match="2 channels.*for 1"):
        Dirnet(weights).register(ImagePair(*double))


def test_weights_of_another_kind_and_damaged_ones_are_refused(tmp_path):
    network = random_network(2, STAGES["spline"])
    other = weights_of(network, tmp_path / "other.safetensors", dimension=2, kind="fusion")
    pair = pair_on(oblique_grid(2))
    with pytest.raises(ValueError, match="are for 'fusion'.*'dirnet' are needed"):
        Dirnet(other).register(pair)
    weights = Path(weights_of(network, tmp_path / "cut.safetensors", dimension=2))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated, damaged"):
        Dirnet(str(weights)).register(pair)
    with pytest.raises(ValueError, match="there are no weights 'dirnet-nothing'"):
        Dirnet("dirnet-nothing").register(pair)
    wide = weights_of(
        network, tmp_path / "wide.safetensors", dimension=2,
        arguments={"dimension": 2, "channels": 1, "stages": [{"spacing": 4, "width": 16}]},
    )  # fmt: skip
    with pytest.raises(ValueError, match="do not fit the network"):
        Dirnet(wide).register(pair)


def test_weights_are_read_again_when_their_file_has_changed(tmp_path):
    pair, path = pair_on(oblique_grid(2)), tmp_path / "n.safetensors"
    points = pair.fixed.grid.points()
    moved = []
    for size in (1.0, 2.0):
        weights_of(random_network(2, STAGES["spline"], size=size), path, dimension=2)
        moved.append(Dirnet(str(path)).register(pair).transform(points))
    assert not torch.equal(*moved)


@pytest.mark.parametrize(
    "check",
    [
        contract.is_its_configuration,
        contract.changes_no_input,
        contract.repeats_exactly,
        contract.traces_its_optimization,
    ],
    ids=lambda check: check.__name__,
)
def test_the_promises_that_need_no_training_are_kept(check, tmp_path):
    weights = weights_of(
        random_network(2, STAGES["spline"]), tmp_path / "n.safetensors", dimension=2
    )
    check(Dirnet(weights))


def test_voxels_outside_the_fixed_mask_have_no_influence(tmp_path):
    weights = weights_of(
        random_network(2, STAGES["spline"]), tmp_path / "n.safetensors", dimension=2
    )
    pair = pair_on(oblique_grid(2))
    inside = torch.zeros(pair.fixed.grid.shape, dtype=torch.int32)
    inside[4:20, 6:26] = 1
    mask = LabelMap(inside, pair.fixed.grid)
    other = torch.where(inside != 0, pair.fixed.data, pair.fixed.data.flip(-1))
    pairs = [
        replace(pair, fixed_mask=mask, fixed=Image(data, pair.fixed.grid))
        for data in (pair.fixed.data, other)
    ]
    points = pair.fixed.grid.points()
    first, second = (Dirnet(weights).register(p).transform(points) for p in pairs)
    assert torch.equal(first, second)
    assert not torch.equal(first, Dirnet(weights).register(pair).transform(points))


def test_images_unlike_those_of_the_training_are_doubted_in_the_verdict(tmp_path):
    grid = oblique_grid(2)
    known = pair_on(grid)
    seen = [Image(image.data / 2, grid) for image in (known.fixed, known.moving)]
    domain = TrainingDomain.of(zip((known.fixed, known.moving), seen, strict=True))
    network = random_network(2, STAGES["spline"], size=0.01)
    changes = {"dimension": 2, "domain": domain.for_card()}
    weights = weights_of(network, tmp_path / "n.safetensors", **changes)
    method = {"name": "chain", "stages": [{"name": "dirnet", "weights": weights}] * 2}

    def reasons(pair: ImagePair) -> str:
        result = load_method(method).register(pair)
        assert len(result.doubts) % 2 == 0  # both stages doubt alike
        return " ".join(run(Case(pair), load_method(method)).verdict.reasons)

    assert "trained on" not in reasons(known)
    tripled = replace(grid, spacing=(4.5, 4.5))
    for image, says in (
        (Image(2 - known.moving.data, grid), "the moving image has another contrast"),
        (Image(known.moving.data, tripled), "mm from corner to corner"),
        (Image(known.moving.data, tripled), "trained on voxels of at most 1.5 mm"),
    ):
        assert says in reasons(replace(known, moving=image))


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({"spacing": 6}, "power of 2"),
        ({"spacing": 4, "shrink": 8}, "at most its spacing"),
        ({"spacing": 16, "layers": 2}, "layers of at least 4"),
        ({"width": 0}, "width of at least 1"),
    ],
)
def test_stages_that_cannot_be_are_refused(stage, says):
    with pytest.raises(ValueError, match=says):
        Stage(**stage)


# --- training


def case_table(folder: Path, seeds, *, dimension=2) -> Path:
    """Blobs moved by some mm, one case per seed; each a person of its own."""
    rows = [["name", "subject", "fixed", "moving"]]
    for seed in seeds:
        shift = (2.0, -1.5, 1.0)[:dimension]
        case = blobs(dimension=dimension, translation_mm=shift, seed=seed)
        for side in ("fixed", "moving"):
            write_image(folder / f"{side}{seed}.nii.gz", getattr(case.pair, side))
        rows.append([f"case{seed}", f"person{seed}", f"fixed{seed}.nii.gz", f"moving{seed}.nii.gz"])
    path = folder / f"cases{min(seeds)}.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


SETTINGS = """
cases = "cases0.csv"
validation = "cases4.csv"
size = [40, 32]
spacing_mm = 1.5
intensity = "0..2"
batch_size = 4
steps_per_epoch = 10
learning_rate = 0.01
bending = 0.1
stage = { spacing = 8, width = 8, layers = 3, dense = 1 }
"""


def configured(folder: Path, text: str = SETTINGS) -> Path:
    case_table(folder, range(4))
    case_table(folder, range(4, 6))
    path = folder / "dirnet.toml"
    path.write_text(text)
    return path


def curve(folder: Path) -> list[str]:
    """The validation losses of all starts, in order."""
    found = []
    for path in sorted(folder.glob("logs/start_*/metrics.csv")):
        with path.open() as file:
            found += [
                r["validation/loss"] for r in csv.DictReader(file) if r.get("validation/loss")
            ]
    return found


def test_training_from_a_case_table_gives_weights_that_register(tmp_path):
    pytest.importorskip("lightning")
    from hybridreg.training import train

    task = load_training("dirnet", configured(tmp_path)).task()
    path = train(task, tmp_path / "run", max_epochs=4)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["validation"]["similarity"] < 0.8 * card["validation"]["similarity_before"]
    assert card["split"] == {
        "train": [f"person{n}" for n in range(4)],
        "validation": ["person4", "person5"],
    }
    assert card["spacing_mm"] == 1.5 and card["arguments"]["dimension"] == 2
    (tmp_path / "method.toml").write_text(f'name = "dirnet"\nweights = "{path}"\n')
    case = blobs(dimension=2, translation_mm=(2.0, -1.5), seed=7)
    result = load_method(tmp_path / "method.toml").register(case.pair)
    points = case.fixed_landmarks.points
    before, after = (
        (t(points) - case.true_transform(points)).norm(dim=-1).mean()
        for t in (IDENTITY, result.transform)
    )
    assert after < 0.8 * before
    assert result.doubts == ()


def test_a_resumed_training_has_the_same_loss_curve(tmp_path):
    pytest.importorskip("lightning")
    from hybridreg.training import train

    settings = load_training("dirnet", configured(tmp_path, SETTINGS.replace("= 10", "= 2")))
    train(settings.task(), tmp_path / "whole", max_epochs=3)
    train(settings.task(), tmp_path / "parts", max_epochs=1)
    train(settings.task(), tmp_path / "parts", max_epochs=3, resume=True)
    assert len(curve(tmp_path / "whole")) == 3
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")


def test_a_later_stage_starts_where_the_earlier_ones_ended_and_leaves_them(tmp_path):
    pytest.importorskip("lightning")
    from hybridreg.training import train

    first = SETTINGS.replace("= 10", "= 4")
    path = configured(tmp_path, first)
    earlier = train(load_training("dirnet", path).task(), tmp_path / "first", max_epochs=1)
    path.write_text(f'after = "{earlier}"\n{first.replace("spacing = 8", "spacing = 4")}')
    settings = load_training("dirnet", path)
    task = settings.task()
    network = task.network(seeded())
    batch = next(iter(task.validation()))
    before = task.losses(network, batch)["similarity"].item()
    known = json.loads(earlier.with_suffix(".json").read_text())
    assert before == pytest.approx(known["validation"]["similarity"])
    later = train(task, tmp_path / "second", max_epochs=1)
    from hybridreg.io.checkpoints import read_checkpoint

    old, new = (read_checkpoint(p, kind="dirnet") for p in (earlier, later))
    for name, values in old.tensors.items():
        assert torch.equal(values, new.tensors[name])
    assert len(new.card.arguments["stages"]) == 2 and any("regressors.1" in n for n in new.tensors)
    path.write_text(path.read_text().replace("spacing_mm = 1.5", "spacing_mm = 2.0"))
    with pytest.raises(ValueError, match="spacing_mm 1.5, and 2.0 is requested"):
        load_training("dirnet", path).task()
    text = path.read_text().replace("spacing_mm = 2.0", "spacing_mm = 1.5")
    path.write_text(text.replace("[40, 32]", "[40, 32, 32]"))
    with pytest.raises(ValueError, match="for 2 dimensions, and the size .* has 3"):
        load_training("dirnet", path).task()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("size = [40, 32]", "size = [40]", "2 or 3 axes"),
        ("bending = 0.1", "bending = -0.1", "must not be negative"),
        ("batch_size = 4", "batch_size = 0", "batch_size must be more than 0"),
        ("size = [40, 32]", "size = [36, 32]", "no multiple of 8"),
        ("size = [40, 32]", "size = [40, 32, 32]", "images are 2D"),
        ('"cases4.csv"', '"cases0.csv"', "in both training and validation"),
        ("spacing = 8,", "spacing = 8, depth = 3,", "unexpected keyword|extra"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(tmp_path, old, new, says):
    path = configured(tmp_path, SETTINGS.replace(old, new))
    with pytest.raises(ValueError, match=says):
        load_training("dirnet", path).task().network(seeded())


def test_without_a_validation_table_every_tenth_person_is_held_out(tmp_path):
    path = configured(tmp_path, SETTINGS.replace('validation = "cases4.csv"', ""))
    task = load_training("dirnet", path).task()
    assert [row.subject for row in task.validation_cases] == ["person0"]
    assert [row.subject for row in task.cases] == ["person1", "person2", "person3"]


def test_a_batch_depends_on_its_generator_alone(tmp_path):
    text = SETTINGS + "rotation_deg = 20\nscaling = 1.2\nmirrored = true\n"
    settings = load_training("dirnet", configured(tmp_path, "\n".join(sorted(text.split("\n")))))
    first, second = settings.task(), settings.task()
    second.batch(seeded(9))
    a, b, other = first.batch(seeded(5)), second.batch(seeded(5)), first.batch(seeded(6))
    for side in ("fixed", "moving"):
        assert a[side].shape == (4, 1, 32, 40)
        assert torch.equal(a[side], b[side]) and not torch.equal(a[side], other[side])


def test_the_task_is_in_the_table_of_tasks():
    assert TASKS["dirnet"].__name__ == "DirnetTraining"
