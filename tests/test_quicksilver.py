"""Quicksilver: the published network, its momenta in any orientation, and its training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, nn

from hybridreg.cases import ImagePair
from hybridreg.config import load_method, load_training
from hybridreg.geodesics import GeodesicTransform, Kernel
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.checkpoints import Card, write_checkpoint
from hybridreg.io.target_store import TargetStore
from hybridreg.methods.quicksilver import Quicksilver
from hybridreg.methods.quicksilver.contrast import remapped
from hybridreg.methods.quicksilver.correction import Residual
from hybridreg.methods.quicksilver.network import CORRECTION_KIND, KIND, momentum_network
from hybridreg.methods.quicksilver.orientation import mirrored, upright
from hybridreg.methods.quicksilver.patches import predicted
from hybridreg.methods.quicksilver.prediction import trained, upright_grid
from hybridreg.methods.quicksilver.training import split
from hybridreg.momentum import shot, to_lps
from hybridreg.phantoms import blobs
from hybridreg.testing import methods as promises
from hybridreg.transforms import IDENTITY, AffineTransform, parts_of

KERNEL = {"a": 16.0, "b": 16.0, "c": 1.0, "power": 2.0}
STRENGTH = {2: 100.0, 3: 400.0}  # of what untrained weights do
SHOOTING = {"steps": 5, "integrator": "euler"}


def card(network, *, kind=KIND, **more) -> Card:
    arguments = {"dimension": network.dimension, "width": 2, "scale": network.scale}
    known = {
        "kind": kind,
        "architecture": "narrow",
        "training_grid": "15",
        "intensity_rule": "percentiles",
        "data": "phantoms",
        "data_licence": "CC0",
        "weights_licence": "CC0",
        "split": {},
        "seed": 0,
        "validation": {},
        "arguments": {**arguments, "dropout": more.pop("dropout", 0.0)},
        "spacing_mm": 3.0,
        "kernel": KERNEL,
        "shooting": SHOOTING,
    }
    return Card(**{**known, **more})


def weights(folder: Path, dimension: int, name: str = "w", **more) -> str:
    """Weights of a narrow network that nothing was taught, large enough to move something."""
    network = momentum_network(dimension, 2, more.get("dropout", 0.0), STRENGTH[dimension])
    network.initialize(Generator().manual_seed(3))
    path = write_checkpoint(
        folder / f"{name}{dimension}.safetensors", network.state_dict(), card=card(network, **more)
    )
    return str(path)


# The network


def test_the_published_width_has_the_published_weights():
    """Every layer of the published table as (channels in, out, side of the kernel), in 3D."""
    encoder = [(1, 64, 3), (64, 64, 3), (64, 64, 3), (64, 64, 2)]
    encoder += [(64, 128, 3), (128, 128, 3), (128, 128, 3), (128, 128, 2)]
    decoder = [(256, 256, 2), (256, 256, 3), (256, 256, 3), (256, 128, 3)]
    decoder += [(128, 128, 3), (128, 128, 3), (128, 128, 3), (128, 1, 3)]

    def count(layers, prelus):
        return sum(a * b * k**3 + b for a, b, k in layers) + prelus

    wanted = 2 * count(encoder, 8) + 3 * count(decoder, 7)
    assert wanted == 21_826_344
    network = momentum_network(3)
    assert sum(p.numel() for p in network.parameters()) == wanted
    assert sum(p.numel() for p in momentum_network(3, 16).parameters()) < wanted / 15


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_patch_of_15_voxels_is_8_then_5_then_8_then_15(dimension):
    network = momentum_network(dimension, 2)
    sizes = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            module.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    x = torch.rand(2, 1, *[15] * dimension)
    assert network(x, x).shape == (2, dimension, *[15] * dimension)
    encoder, decoder = [15, 15, 15, 8, 8, 8, 8, 5], [8, 8, 8, 8, 15, 15, 15, 15]
    assert sizes == 2 * encoder + dimension * decoder
    with pytest.raises(ValueError, match="4 n \\+ 3"):
        network(x[..., :14], x[..., :14])


def test_dropout_follows_every_activation_but_those_after_a_change_of_resolution():
    network = momentum_network(3, 2, dropout=0.2)
    for part in (network.fixed, network.moving, *network.axes):
        layers = list(part)
        for number, layer in enumerate(layers[:-2]):
            resized = (
                isinstance(layer, nn.ConvTranspose3d) or getattr(layer, "stride", (1,))[0] == 2
            )
            if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
                dropped = isinstance(layers[number + 2], nn.Dropout)
                assert isinstance(layers[number + 1], nn.PReLU) and dropped != resized
    assert isinstance(network.axes[0][-1], nn.Conv3d)  # linear, and nothing dropped after it
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.2}


def test_both_images_have_encoders_of_their_own():
    network = momentum_network(2, 2)
    network.initialize(Generator().manual_seed(0))
    a, b = torch.rand(2, 1, 1, 15, 15)
    assert not torch.allclose(network(a, b), network(b, a))
    assert not torch.equal(network.fixed[0].weight, network.moving[0].weight)


# Patches


class Stub(nn.Module):
    """Stands for a network: a function of the patches of both images."""

    def __init__(self, function, dimension=2):
        super().__init__()
        self.dimension, self.function, self.calls = dimension, function, []

    def forward(self, fixed, moving):
        self.calls.append(fixed)
        return self.function(fixed, moving).expand(-1, self.dimension, *fixed.shape[2:])


def test_patches_cover_the_image_and_their_overlaps_are_averaged():
    rows = torch.arange(1.0, 31).reshape(1, 1, 30).expand(1, 15, 30).contiguous()
    same = predicted(Stub(lambda f, m: f), rows, rows, size=15, stride=14)
    torch.testing.assert_close(same, rows.expand(2, -1, -1))
    # Patches begin at 0, 14 and 15: means 8, 22 and 23.
    means = predicted(
        Stub(lambda f, m: f.mean((2, 3), keepdim=True)), rows, rows, size=15, stride=14
    )
    wanted = [8.0] * 14 + [15.0] + [22.5] * 14 + [23.0]
    torch.testing.assert_close(means[0, 0], torch.tensor(wanted))


def test_patches_where_both_images_are_0_are_not_evaluated():
    fixed, moving = torch.zeros(2, 1, 45, 45)
    fixed[0, 3, 3], moving[0, 40, 40] = 1, 1
    network = Stub(lambda f, m: torch.ones_like(f))
    found = predicted(network, fixed, moving, size=15, stride=15)
    assert sum(len(call) for call in network.calls) == 2
    wanted = torch.zeros(45, 45)
    wanted[:15, :15] = wanted[30:, 30:] = 1
    assert torch.equal(found[1], wanted)


def test_an_image_smaller_than_a_patch_is_padded():
    image = torch.rand(1, 9, 20)
    found = predicted(Stub(lambda f, m: f + m), image, image, size=15, stride=14)
    torch.testing.assert_close(found, 2 * image.expand(2, -1, -1))


# The method


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def methods(folder):
    return {dimension: Quicksilver(weights(folder, dimension)) for dimension in (2, 3)}


class Both:
    """A method for images of two or three dimensions, as the promises need."""

    def __init__(self, methods):
        self.methods = methods

    def register(self, pair, initial=IDENTITY):
        return self.methods[pair.dimension].register(pair, initial)


@pytest.mark.parametrize(
    "promise",
    [
        promises.refuses_what_cannot_be_registered,
        promises.changes_no_input,
        promises.repeats_exactly,
        promises.agrees_with_its_inverse,
    ],
)
def test_untrained_weights_keep_the_promises_that_do_not_depend_on_training(promise, methods):
    promise(Both(methods))


def test_it_is_its_configuration(methods):
    promises.is_its_configuration(methods[2])


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_result_is_the_initial_transform_after_a_geodesic(dimension, methods):
    case, initial = promises._turned(dimension)
    result = methods[dimension].register(case.pair, initial)
    parts = parts_of(result.transform)
    assert isinstance(parts[-1], GeodesicTransform) and len(parts) == 1 + len(parts_of(initial))
    assert parts[-1].kernel == Kernel(**KERNEL)
    assert set(parts[-1].grid.spacing) == {3.0}
    moved = (parts[-1](case.pair.fixed.grid.points()) - case.pair.fixed.grid.points()).norm(dim=-1)
    assert moved.max() > 0.2  # the weights do something


@pytest.mark.parametrize("dimension", [2, 3])
def test_how_images_are_stored_does_not_matter(dimension, methods):
    """Reordered and flipped axes name the same points in space, and so give the same map."""
    pair = blobs(dimension=dimension, translation_mm=(3.0, -2.0, 4.0)[:dimension]).pair
    order = tuple(reversed(range(dimension)))
    turned = (0,)

    def stored(image):
        data = image.data.permute(0, *[a + 1 for a in order]).flip([a + 1 for a in turned])
        return Image(data.contiguous(), image.grid.with_axes(order, turned))

    other = ImagePair(stored(pair.fixed), stored(pair.moving))
    points = pair.fixed.grid.points()
    first, second = (methods[dimension].register(p).transform(points) for p in (pair, other))
    moved = (first - points).norm(dim=-1).max()
    assert moved > 0.2
    assert (first - second).norm(dim=-1).max() < 0.05 * moved


def test_the_voxels_of_the_network_are_those_of_its_training(folder):
    """Also where the fixed image is coarser along an axis."""
    pair = blobs(dimension=3).pair
    coarse = pair.fixed.grid.with_spacing([2.0, 2.0, 5.0])
    from hybridreg.warping import warp

    pair = replace(pair, fixed=warp(pair.fixed, IDENTITY, onto=coarse))
    found = Quicksilver(weights(folder, 3)).register(pair)
    assert parts_of(found.transform)[-1].grid.spacing == (3.0, 3.0, 3.0)


def test_outside_the_fixed_mask_the_network_sees_air(methods):
    from hybridreg.images import LabelMap

    pair = blobs(dimension=2).pair
    nothing = LabelMap(torch.zeros(pair.fixed.grid.shape, dtype=torch.int32), pair.fixed.grid)
    half = nothing.data.clone()
    half[: len(half) // 2] = 1
    changed = pair.fixed.data.clone()
    changed[0][len(half) // 2 + 8 :] *= 0.5  # beyond the smoothing of the boundary
    mask = LabelMap(half, pair.fixed.grid)
    points = pair.fixed.grid.points()
    first, second, free = (
        methods[2].register(p).transform(points)
        for p in (
            replace(pair, fixed_mask=mask),
            replace(pair, fixed=Image(changed, pair.fixed.grid), fixed_mask=mask),
            pair,
        )
    )
    assert (first - free).norm(dim=-1).max() > 0.1
    assert (first - second).norm(dim=-1).max() < 0.3 * (first - free).norm(dim=-1).max()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"samples": 5}, "dropout"),
        ({"spacing_mm": 2.0}, "trained at 3 mm"),
        ({"correction": "w"}, "weights are for 'quicksilver'"),
        ({"correction": "other"}, "trained for other weights"),
        ({"weights": "absent.safetensors"}, "absent"),
        ({"weights": "nobody"}, "no weights 'nobody'"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused(folder, settings, says):
    weights(folder, 2, "other", kind=CORRECTION_KIND, training={"corrects": "0"})
    given = {"weights": weights(folder, 2)}
    for name, value in settings.items():
        known = {"w": weights(folder, 2), "other": str(folder / "other2.safetensors")}
        given[name] = known.get(value, value)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        Quicksilver(**given).register(blobs(dimension=2).pair)


def test_images_of_another_dimension_and_damaged_weights_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="3 dimensions, and the weights .* are for 2"):
        Quicksilver(weights(folder, 2)).register(blobs(dimension=3).pair)
    damaged = Path(weights(tmp_path, 2))
    damaged.write_bytes(damaged.read_bytes()[:-8])
    with pytest.raises(ValueError, match="truncated"):
        Quicksilver(str(damaged)).register(blobs(dimension=2).pair)


@pytest.mark.parametrize("samples", [1, -1])
def test_impossible_numbers_of_samples_are_refused(samples):
    with pytest.raises(ValueError, match="samples"):
        Quicksilver("w", samples=samples)


def test_the_next_stage_continues_from_the_momentum(folder):
    """LDDMM with the kernel of the training goes on from its momentum, to one geodesic."""
    refine = {"name": "lddmm", "kernel": KERNEL, "similarity": "ssd", "iterations": [1]}
    refine |= {"image_mm": [3.0], "momentum_mm": [3.0], "unfolding": 0.001}
    network = {"name": "quicksilver", "weights": weights(folder, 2)}
    pair = blobs(dimension=2, translation_mm=(1.0, 0.0)).pair
    found = load_method({"name": "chain", "stages": [network, refine]}).register(pair).transform
    assert [type(part) for part in parts_of(found)] == [GeodesicTransform]
    start = load_method(network).register(pair).transform
    points = pair.fixed.grid.points()
    apart = (found(points) - start(points)).norm(dim=-1).mean()
    assert apart < (start(points) - points).norm(dim=-1).mean()


def test_images_unlike_the_training_are_doubted_in_the_verdict(folder):
    """By the card: fine for images like those, and what is unlike is said of others."""
    from hybridreg.cases import Case
    from hybridreg.network_inputs import scaled
    from hybridreg.pipeline import run
    from hybridreg.training_domain import TrainingDomain

    pair = blobs(dimension=2).pair
    images = [(image, scaled(image, "percentiles")) for image in (pair.fixed, pair.moving)]
    domain = TrainingDomain.of(images).for_card()
    known = Quicksilver(weights(folder, 2, "known", domain=domain))
    assert known.register(pair).doubts == ()
    inverted = replace(
        pair, moving=Image(pair.moving.data.max() - pair.moving.data, pair.moving.grid)
    )
    outcome = run(Case(inverted), known)
    assert outcome.verdict.status != "pass"
    assert any("moving image has another contrast" in text for text in outcome.verdict.reasons)
    far = {**domain, "diagonal_mm": (500.0, 600.0), "spacing_mm": (0.1, 0.2)}
    doubts = " ".join(Quicksilver(weights(folder, 2, "far", domain=far)).register(pair).doubts)
    assert "from corner to corner" in doubts and "trained on voxels of at most 0.2 mm" in doubts


# Uncertainty


def test_samples_give_the_deviation_of_the_map_where_images_show_something(folder):
    pair = blobs(dimension=2).pair
    method = Quicksilver(weights(folder, 2, "dropped", dropout=0.2), samples=6, seed=4)
    result = method.register(pair)
    deviation = result.uncertainty
    assert deviation.grid == pair.fixed.grid and deviation.data.shape[0] == 1
    assert torch.isfinite(deviation.data).all() and (deviation.data >= 0).all()
    assert deviation.data.max() > 1e-3
    again = method.register(pair)
    assert torch.equal(again.uncertainty.data, deviation.data)
    other = replace(method, seed=99).register(pair)
    assert not torch.equal(other.uncertainty.data, deviation.data)
    assert Quicksilver(method.weights).register(pair).uncertainty is None


def test_the_deviation_is_that_of_the_samples():
    from hybridreg.methods.quicksilver.sampling import _Spread

    fields = torch.randn(7, 3, 4, 5, generator=Generator().manual_seed(0)) + 10
    spread = _Spread()
    for field in fields:
        spread.add(field)
    wanted = np.sqrt(fields.numpy().var(0, ddof=1).sum(0))
    np.testing.assert_allclose(spread.deviation[0].numpy(), wanted, rtol=1e-4)


# Training


def momentum_store(folder: Path, *, images: int = 8, dimension: int = 2) -> TargetStore:
    """Targets whose momentum can be learned: brighter where the moving image is."""
    path = folder / "t.zarr"
    store = TargetStore.begin(path, "momentum", {"seed": 0})
    axes = np.diag([-1.0] * dimension)  # as RAS is stored
    grid = Grid((24,) * dimension, (3.0,) * dimension, (5.0,) * dimension, axes)
    for number in range(images):
        generator = Generator().manual_seed(number)
        pair = [
            torch.rand(1, 6, 6, generator=Generator().manual_seed(n)) for n in (number, number + 1)
        ]
        fixed, moving = (
            Image(nn.functional.interpolate(x[None], grid.shape, mode="bilinear")[0], grid)
            for x in pair
        )
        momentum = 40 * (moving.data - fixed.data).expand(dimension, *grid.shape).contiguous()
        momentum = momentum + torch.randn(momentum.shape, generator=generator)
        store.write(
            f"{number}-{number + 1}",
            grid=grid,
            affine=AffineTransform(torch.eye(dimension + 1)),
            images={
                "fixed": fixed,
                "moving": moving,
                "fixed_on_grid": fixed,
                "moving_on_grid": moving,
            },
            arrays={"momentum": momentum},
            attributes={"kernel": KERNEL, "shooting": SHOOTING},
        )
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return momentum_store(tmp_path_factory.mktemp("store"))


SETTINGS = """
store = "t.zarr"
validation = ["7-*"]
width = 2
batch_size = 8
learning_rate = 1e-2
steps_per_epoch = 6
validation_batches = 2
mirror = false
data = "phantoms"
"""


def settings(store: TargetStore, text: str = SETTINGS, task: str = "quicksilver"):
    path = store.path.parent / "settings.toml"
    path.write_text(text)
    return load_training(task, path)


def test_no_image_is_both_trained_on_and_validated_with(store):
    train, validation = split(store, ["7-*"], [])
    assert validation == ["7-8"] and "6-7" not in train and len(train) == 6
    train, validation = split(store, [], [])

    def images(cases):
        return {store.read(c).images[side] for c in cases for side in ("fixed", "moving")}

    assert validation and not images(train) & images(validation)
    assert "0-1" not in split(store, ["7-*"], ["0-*"])[0]
    with pytest.raises(ValueError, match="name other validation cases"):
        split(store, ["*"], [])


def test_a_killed_training_resumes_to_the_same_weights_and_learns(store, tmp_path):
    pytest.importorskip("lightning")
    from hybridreg.io.checkpoints import read_checkpoint
    from hybridreg.training import train

    task = settings(store).task()
    whole = train(task, tmp_path / "whole", max_epochs=12)
    train(settings(store).task(), tmp_path / "part", max_epochs=4)
    part = train(settings(store).task(), tmp_path / "part", max_epochs=12, resume=True)
    first, second = (read_checkpoint(path, kind=KIND) for path in (whole, part))
    assert all(torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)
    assert first.card.validation["relative"] < 0.95
    assert first.card.kernel == KERNEL and first.card.shooting == SHOOTING
    assert first.card.spacing_mm == 3.0 and "narrow" in first.card.architecture
    assert first.card.split["validation"] == ["7-8"] and first.card.domain
    _correct(store, whole, tmp_path)


def _correct(store, prediction, tmp_path):
    """A correction of these weights is trained, used with them, and refused with others."""
    from hybridreg.training import train

    text = SETTINGS + f'prediction = "{prediction}"\n'
    task = settings(store, text, "quicksilver-correction").task()
    correction = train(task, tmp_path / "correction", max_epochs=1)
    pair = blobs(dimension=2).pair
    with_it = Quicksilver(str(prediction), correction=str(correction)).register(pair)
    points = pair.fixed.grid.points()
    without = Quicksilver(str(prediction)).register(pair).transform(points)
    assert not torch.equal(with_it.transform(points), without)
    other = weights(tmp_path, 2, "stranger")
    with pytest.raises(ValueError, match="trained for other weights"):
        Quicksilver(other, correction=str(correction)).register(pair)


def test_training_starts_from_given_weights_of_the_same_kind(store, folder):
    path = weights(folder, 2, "again", training={"best_step": 30, "steps_before": 12})
    task = settings(store, SETTINGS + f'start = "{path}"\n').task()
    network = task.network(Generator().manual_seed(0))
    assert task.card().training["steps_before"] == 42
    known = trained(path).network.state_dict()
    assert all(torch.equal(values, known[name]) for name, values in network.state_dict().items())
    assert network.scale == STRENGTH[2] and network.training
    coarse = weights(folder, 2, "coarse", spacing_mm=5.0)
    for start, says in ((coarse, "spacing_mm 5.0"), (weights(folder, 3), "do not fit")):
        task = settings(store, SETTINGS + f'start = "{start}"\n').task()
        with pytest.raises(ValueError, match=says):
            task.network(Generator().manual_seed(0))
    both = f'start = "{path}"\nprediction = "{path}"\n'
    task = settings(store, SETTINGS + both, "quicksilver-correction").task()
    begun = task.network(Generator().manual_seed(0)).state_dict()
    assert all(torch.equal(values, known[name]) for name, values in begun.items())
    assert task.card().kind == "quicksilver-correction"


def test_the_correction_learns_what_the_prediction_missed(store, folder):
    predictor = trained(weights(folder, 2))
    case = store.read("0-1")
    values = {
        "fixed": store.image(case.images["fixed_on_grid"]).data,
        "moving": store.image(case.images["moving_on_grid"]).data,
        "momentum": store.array("0-1", "momentum"),
    }
    plain, changed = upright(case, values), Residual(predictor)(case, values)
    momentum = predictor.momentum(predictor.network, plain["fixed"], plain["moving"])
    torch.testing.assert_close(changed["momentum"] + momentum, plain["momentum"])
    assert torch.equal(changed["moving"], plain["moving"])
    # The fixed image warped back, then forth again, is itself.
    grid = upright_grid(case.grid)
    found = predictor.shot(momentum, grid, grid)
    from hybridreg.warping import warp

    forth = warp(Image(changed["fixed"], grid), found, onto=grid).data
    inner = (slice(None), slice(4, -4), slice(4, -4))
    assert (changed["fixed"] - plain["fixed"])[inner].abs().mean() > 0.002
    assert (forth - plain["fixed"])[inner].abs().mean() < 0.5 * (changed["fixed"] - plain["fixed"])[
        inner
    ].abs().mean() + 0.01


def test_cases_are_turned_upright_with_their_vectors(store):
    """The store's grid runs against x and y; a vector keeps its direction in space."""
    case = store.read("0-1")
    stored = store.array("0-1", "momentum")
    image = store.image(case.images["fixed_on_grid"]).data
    found = upright(case, {"fixed": image, "momentum": stored})
    grid = upright_grid(case.grid)
    assert np.allclose(np.array(grid.direction), np.eye(2))
    assert torch.equal(found["fixed"], image.flip(1, 2))
    torch.testing.assert_close(to_lps(found["momentum"], grid), stored.flip(1, 2))


def test_mirrored_momenta_give_mirrored_maps():
    grid = Grid((32, 32), (3.0, 3.0), (0.0, 0.0), np.eye(2))
    m = torch.randn(2, 4, 4, generator=Generator().manual_seed(0))
    m = 5 * nn.functional.interpolate(m[None], (32, 32), mode="bicubic")[0]
    batch = {"fixed": torch.rand(2, 1, 32, 32), "momentum": torch.stack([m, m])}
    found = mirrored(batch, torch.tensor([False, True]))
    assert torch.equal(found["momentum"][0], m)
    assert torch.equal(found["fixed"][1], batch["fixed"][1].flip(-1))
    maps = [shot(x, Kernel(**KERNEL), grid, onto=grid).field.vectors for x in found["momentum"]]
    assert maps[0].abs().max() > 0.3
    wanted = maps[0].flip(-1) * torch.tensor([-1.0, 1.0]).reshape(2, 1, 1)
    torch.testing.assert_close(maps[1], wanted, atol=1e-3, rtol=1e-3)


def test_another_contrast_keeps_air_and_orders_nothing():
    images = torch.linspace(0, 1, 101).expand(5, 1, 101)
    found = remapped(images, Generator().manual_seed(1))
    assert (
        (found[..., 0] == 0).all() and (found[..., 1:] >= 0.05 - 1e-6).all() and (found <= 1).all()
    )
    slopes = found[..., 2:].diff(dim=-1)
    assert (slopes > 0).any() and (slopes < 0).any()  # some tissues change their order
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found, remapped(images, Generator().manual_seed(1)))


def test_a_store_without_momenta_is_refused(tmp_path):
    from test_target_store import parts

    path = tmp_path / "t.zarr"
    other = TargetStore.begin(path, "known", {"seed": 0})
    for number in range(4):
        given = parts(2, seed=number)
        given["images"]["fixed_on_grid"] = given["images"]["fixed"]
        other.write(str(number), **given)
    with pytest.raises(ValueError, match="--kind momentum"):
        settings(other, SETTINGS.replace("7-*", "3")).task().network(Generator().manual_seed(0))


# What is written


def test_the_output_names_the_data_of_the_weights_and_shows_the_uncertainty(folder, tmp_path):
    import json

    from hybridreg import read_image
    from hybridreg.cases import Case
    from hybridreg.pipeline import run

    method = Quicksilver(weights(folder, 2, "dropped", dropout=0.2), samples=3)
    outcome = run(Case(blobs(dimension=2).pair), method)
    out = outcome.save(tmp_path / "out")
    written = read_image(out / "uncertainty.nii.gz").data
    torch.testing.assert_close(written, outcome.result.uncertainty.data)
    result = json.loads((out / "result.json").read_text())
    statistics = result["transform"]["uncertainty_mm"]
    assert statistics["max"] == pytest.approx(written.max().item(), rel=1e-4)
    assert 0 < statistics["mean"] < statistics["p95"] < statistics["max"]
    assert result["weights"]["dropped2"]["data"] == "phantoms"
    page = (out / "report.html").read_text()
    assert "Trained on" in page and "phantoms" in page
    assert "Standard deviation of the displacement" in page and "Uncertainty" in page
    assert page.count("moving image enlarged") == 1  # the bar of the Jacobian alone
    plain = run(Case(blobs(dimension=2).pair), Quicksilver(weights(folder, 2)))
    other = plain.save(tmp_path / "plain")
    assert not (other / "uncertainty.nii.gz").exists()
    assert "Standard deviation of the displacement" not in (other / "report.html").read_text()


def test_a_batch_notices_other_weights_in_the_same_file(folder):
    from hybridreg.config import describe_method, files_of

    method = Quicksilver(weights(folder, 2, "changing"))
    chain = {"name": "chain", "stages": [describe_method(method)]}
    before = files_of(chain)["files"]
    assert list(before) == [method.weights]
    network = momentum_network(2, 2)
    write_checkpoint(method.weights, network.state_dict(), card=card(network))
    assert files_of(chain)["files"] != before


def test_weights_are_described_on_the_command_line(folder, capsys):
    import json

    from typer.testing import CliRunner

    from hybridreg.cli.app import app

    path = weights(folder, 2)
    shown = json.loads(CliRunner().invoke(app, ["info", path, "--json"]).stdout)
    assert shown["data"] == "phantoms" and shown["kind"] == KIND
    listed = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert "photographs" in listed["weights"]["fusion-focus"]
