"""Learned descriptors: their networks against plain formulas, their training, and what they refuse."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from hybridreg.config import build, load_method
from hybridreg.descriptors.anatomy.descriptor import Anatomy
from hybridreg.descriptors.anatomy.examples import Labeled, Source, contrasts_of
from hybridreg.descriptors.anatomy.network import AnatomyEncoder
from hybridreg.descriptors.anatomy.training import AnatomyTraining
from hybridreg.descriptors.autoencoder.descriptor import Autoencoder
from hybridreg.descriptors.autoencoder.network import StackedAutoencoder
from hybridreg.descriptors.autoencoder.training import AutoencoderTraining
from hybridreg.descriptors.mind import Mind
from hybridreg.descriptors.patches import Patches, in_another_contrast
from hybridreg.descriptors.pca import Components, Pca, PcaTraining
from hybridreg.descriptors.stacked import Stacked
from hybridreg.descriptors.torchscript import TorchScript
from hybridreg.descriptors.trained_lattice import TrainedLattice, over_slabs
from hybridreg.descriptors.unit import unit
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.checkpoints import Card, write_checkpoint
from hybridreg.io.images import write_image
from hybridreg.methods.combine import Chain, OnFeatures
from hybridreg.methods.instance import Instance
from hybridreg.phantoms import blobs
from hybridreg.registry import DESCRIPTORS
from hybridreg.similarity import SSD
from hybridreg.testing import DESCRIPTOR_CHECKS
from hybridreg.transforms import AffineTransform
from hybridreg.warping import jacobian_determinant

SMALL = {"widths": [4, 6], "kernels": [3, 3], "dilations": [1, 2]}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_weights(network: torch.nn.Module) -> torch.nn.Module:
    for number, parameter in enumerate(network.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=generator(number))
    return network


def card(kind: str, **more) -> Card:
    said = {"architecture": "small", "training_grid": "-", "intensity_rule": "percentiles"}
    said |= {"data": "none", "data_licence": "CC0", "weights_licence": "CC0"}
    return Card(kind=kind, split={}, seed=0, validation={}, **(said | more))


def weights_of(kind: str, network: torch.nn.Module, folder, *, spacing_mm=1.5, **arguments) -> str:
    path = folder / f"{kind}.safetensors"
    about = card(kind, arguments=arguments, spacing_mm=spacing_mm)
    return str(write_checkpoint(path, random_weights(network).state_dict(), card=about))


def small(name: str, folder, dimension: int = 3, spacing_mm: float = 1.5):
    """A descriptor of random weights."""
    if name == "pca":
        arguments = {"dimension": dimension, "size": 3, "channels": 4}
        return Pca(
            weights_of("pca", Components(**arguments), folder, spacing_mm=spacing_mm, **arguments)
        )
    if name == "autoencoder":
        arguments = {"dimension": dimension, **SMALL}
        network = StackedAutoencoder(**arguments)
        return Autoencoder(
            weights_of("autoencoder", network, folder, spacing_mm=spacing_mm, **arguments)
        )
    arguments = {"labels": [0, 1, 2], "channels": 4, "width": 8, "depth": 1, "scales": [1, 2]}
    network = AnatomyEncoder(**arguments)
    return Anatomy(weights_of("anatomy", network, folder, spacing_mm=spacing_mm, **arguments))


def scripted(module: torch.nn.Module, folder) -> str:
    path = folder / "model.pt"
    torch.jit.save(torch.jit.script(module), str(path))
    return str(path)


class Layers(torch.nn.Module):
    """Intensities and their opposite, and at half the size six random channels."""

    def __init__(self):
        super().__init__()
        self.conv = random_weights(torch.nn.Conv3d(1, 6, 3, stride=2, padding=1))

    def forward(self, x):
        return [torch.cat([x, -x], 1), self.conv(x)]


LEARNED = ("pca", "autoencoder", "anatomy", "torchscript")


def test_every_descriptor_that_needs_a_file_is_under_test():
    need = {
        name for name in DESCRIPTORS if name not in ("intensity", "gradient", "mind", "stacked")
    }
    assert {name for name in need if not name.startswith("my-")} == set(LEARNED)


@pytest.mark.parametrize("check", DESCRIPTOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", LEARNED)
def test_learned_descriptors_keep_the_contract_in_3d(name, check, tmp_path):
    if name == "torchscript":
        described = TorchScript(scripted(Layers(), tmp_path), trusted=True, multiple=2)
    else:
        described = small(name, tmp_path)
    check(described, dimensions=(3,))


@pytest.mark.parametrize("check", DESCRIPTOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["pca", "autoencoder"])
def test_those_of_patches_keep_the_contract_in_2d(name, check, tmp_path):
    check(small(name, tmp_path, dimension=2), dimensions=(2,))


def test_the_squared_distance_of_unit_vectors_is_that_of_their_correlation():
    a, b = torch.randn(2, 7, 5, 6, generator=generator())
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.flatten(1).T, b.flatten(1).T)]
    found = (unit(a) - unit(b)).square().sum(0)
    assert np.allclose(2 - 2 * np.array(expected), found.flatten(), atol=1e-5)
    assert torch.equal(unit(torch.full((4, 3, 3), 2.5)), torch.zeros(4, 3, 3))


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_dense_autoencoder_is_that_of_every_patch(dimension):
    network = random_weights(StackedAutoencoder(dimension, **SMALL)).eval()
    values = torch.rand(1, *(12, 11, 13)[:dimension], generator=generator())
    found, size = network.dense(values), network.patch
    for corner in ((0, 0, 0), (3, 2, 4)):
        corner = corner[:dimension]
        patch = values[(slice(None), *(slice(c, c + size) for c in corner))]
        middle = (slice(None), *(c + size // 2 for c in corner))
        assert torch.allclose(network(patch[None]).flatten(), found[middle], atol=1e-5)
    assert found.shape == (6, *values.shape[1:])


def test_slabs_give_what_the_whole_gives():
    network = torch.nn.Conv3d(1, 3, 5, padding=2)
    values = torch.rand(1, 17, 6, 7, generator=generator())

    def run(v):
        return network(v[None])[0]

    with torch.no_grad():
        whole = run(values)
        assert torch.allclose(over_slabs(values, run, reach=2, voxels=4 * 42), whole, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_slabs_thinner_than_a_patch_are_described_too(rows):
    network = torch.nn.Conv3d(1, 2, 5)
    values = torch.rand(1, 17, 6, 7, generator=generator())

    def valid(v):
        return torch.nn.functional.pad(network(v[None])[0], [2] * 6)

    with torch.no_grad():
        found = over_slabs(values, valid, reach=2, voxels=rows * 42)
        assert torch.allclose(found[:, 2:-2], valid(values)[:, 2:-2], atol=1e-6)


def test_components_are_those_of_scikit_learn():
    image = torch.rand(1, 14, 15, 16, generator=generator())
    settings = PcaTraining(
        images=(Path("a"),), validation=(Path("b"),), size=3, channels=5, patches=500
    )
    from hybridreg.descriptors.pca import PcaTask

    network = PcaTask({"a": image}, {"b": image}, settings_given=settings).network(generator(1))
    drawn = Patches({"a": image}, size=3).draw(500, generator(1)).flatten(1)
    drawn = (drawn - drawn.mean(1, keepdim=True)).numpy()
    fitted = PCA(5, svd_solver="full").fit(drawn)
    patch = image[:, 4:7, 5:8, 6:9]
    found = network.dense(image)[:, 5, 6, 7]
    expected = fitted.components_ @ (patch - patch.mean()).flatten().numpy()
    assert np.allclose(found.abs(), np.abs(expected), atol=1e-4)  # signs are arbitrary


def test_patches_are_drawn_where_there_are_edges():
    image = torch.full((1, 40, 40), 0.2)
    image[:, :, 20:] = 0.8
    drawn = Patches({"step": image}, size=5, even=0.2).draw(400, generator())
    edges = (drawn.flatten(1).std(1) > 0.01).float().mean().item()
    evenly = 4 / 36  # of the places lie within two voxels of the step
    assert edges == pytest.approx(0.8 * 1 + 0.2 * evenly, abs=0.06)


@pytest.mark.parametrize(
    ("image", "says"),
    [(torch.rand(1, 4, 30), "patches need 7"), (torch.full((1, 20, 20), 0.5), "same everywhere")],
)
def test_images_without_patches_are_refused(image, says):
    with pytest.raises(ValueError, match=f"a.*{says}|{says}"):
        Patches({"a": image}, size=7)


def test_another_contrast_is_a_function_of_intensity_that_keeps_air():
    patches = torch.rand(6, 1, 9, 9, generator=generator()).mul(20).round().div(20)
    found = in_another_contrast(patches, generator(1))
    assert (found[patches == 0] == 0).all() and found.min() >= 0 and found.max() <= 1
    for before, after in zip(patches, found, strict=True):
        for value in before.unique():
            assert after[before == value].unique().numel() == 1
    # In some the order of intensities is another.
    order = [
        torch.corrcoef(torch.stack([b.flatten(), a.flatten()]))[0, 1]
        for b, a in zip(patches, found)
    ]
    assert min(order) < 0.5


def person(seed: int = 0) -> Labeled:
    case = blobs(dimension=3, seed=seed)
    values = (case.pair.fixed.data / case.pair.fixed.data.max()).clamp(0, 1)
    classes = case.fixed_labels.data.long()
    return Labeled(values, classes, (values[0] > 0.1).long() + (values[0] > 0.4).long())


def test_the_encoder_of_an_image_is_that_of_its_voxels():
    network = random_weights(
        AnatomyEncoder([0, 1], channels=5, width=6, depth=1, scales=[1, 3])
    ).eval()
    one = person()
    voxels = Source(one, [one.values], network.scales).every(37)
    with torch.no_grad():
        found = network(voxels.taps, voxels.places)
    shown = (one.values[0] > 0.04).flatten().nonzero().flatten()[::37]
    dense = network.dense(one.values).flatten(1)[:, shown].T
    assert torch.allclose(found, dense, atol=5e-3)  # images of examples are kept in half precision
    assert torch.equal(voxels.classes, one.classes.flatten()[shown])


def test_voxels_are_drawn_evenly_from_structures_of_any_size():
    one = person()
    drawn = Source(one, [one.values], [1]).draw(20_000, generator()).classes
    fractions = drawn.bincount() / len(drawn)
    count = len(one.classes.unique())
    assert (fractions[one.classes.unique()] > 0.6 / count).all()


def test_contrasts_keep_the_anatomy():
    one = person()
    made = contrasts_of(one, 4, generator())
    assert len(made) == 5 and torch.equal(made[0], one.values)
    for values in made[1:]:
        assert values.shape == one.values.shape and 0 <= values.min() and values.max() <= 1
        assert (values - one.values).abs().mean() > 0.02


@pytest.fixture
def files(tmp_path):
    """Images of four persons and their labels, as files."""
    found = {"images": [], "labels": []}
    for seed in range(4):
        case = blobs(dimension=3, seed=seed, noise=0.01)
        for what, value in (("images", case.pair.fixed), ("labels", case.fixed_labels)):
            path = tmp_path / f"{what}{seed}.nii.gz"
            write_image(path, value)
            found[what].append(path)
    return found


def trained(settings, folder, epochs: int):
    from hybridreg.training import train

    return train(settings.task(), folder / "run", max_epochs=epochs)


def test_an_autoencoder_learns_layer_by_layer_and_describes(files, tmp_path):
    pytest.importorskip("lightning")
    paths = files["images"]
    settings = AutoencoderTraining(
        images=tuple(paths[:3]), validation=(paths[3],), spacing_mm=1.9, widths=(6, 6), kernels=(3, 3),
        dilations=(1, 1), layer_steps=20, batch_size=32, learning_rate=0.01, data_licence="CC0",
    )  # fmt: skip
    path = trained(settings, tmp_path, 3)
    described = Autoencoder(str(path))
    about = described._checkpoint.card
    assert about.validation["patch"] < 0.6 and about.data_licence == "CC0"
    assert about.arguments["widths"] == [6, 6] and about.spacing_mm == 1.9
    assert described(blobs().pair.fixed).channels == 6
    before = {n: t.clone() for n, t in settings.task().network(generator()).named_parameters()}
    task = settings.task()
    network = task.network(generator()).train()
    task.losses(network, task.batch(generator()))["layer"].backward()
    touched = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched <= {n for n in before if n.split(".")[1] == "0"} and touched


def test_an_encoder_learns_structures_and_describes(files, tmp_path):
    pytest.importorskip("lightning")
    given = {
        name: (tuple(paths[:3]), (paths[3],))
        for name, paths in (("images", files["images"]), ("labels", files["labels"]))
    }
    settings = AnatomyTraining(
        images=given["images"][0], validation=given["images"][1], labels=given["labels"][0],
        validation_labels=given["labels"][1], spacing_mm=2.0, channels=4, width=16, depth=1, scales=(1, 2),
        batch_size=256,
    )  # fmt: skip
    task = settings.task()
    same = list(task.validation())[0]
    network = task.network(generator())
    start = task.losses(network, same)["structures"].item()
    path = trained(settings, tmp_path, 1)
    about = Anatomy(str(path))._checkpoint.card
    # Blobs of another seed are other structures: only what is no blob can be learned from others.
    assert about.validation["structures"] < start
    assert Anatomy(str(path))(blobs().pair.fixed).channels == 4


def test_wrong_training_settings_are_refused_before_anything_is_read():
    a, b, c, d, e = ((Path(f"{name}.nii"),) for name in "abcde")
    with pytest.raises(ValueError, match="others for validation"):
        AutoencoderTraining(images=a, validation=())
    with pytest.raises(ValueError, match="a.nii is given twice"):
        PcaTraining(images=a, validation=a)
    with pytest.raises(ValueError, match="labels has 2 files, and 1 are needed"):
        AnatomyTraining(images=a, validation=b, labels=c + d, validation_labels=e)
    with pytest.raises(ValueError, match="tissues has 0 files, and 1 are needed"):
        AnatomyTraining(images=a, validation=b, labels=c, validation_labels=e, contrasts="any")


@pytest.mark.parametrize("name", ["pca", "autoencoder", "anatomy"])
def test_images_that_weights_are_not_for_are_refused(name, tmp_path):
    described = small(name, tmp_path)
    flat = blobs(dimension=2).pair.fixed
    with pytest.raises(ValueError, match="it is 2D and the weights of the descriptor are for 3D"):
        described(flat)
    coarse = Image(torch.rand(9, 9, 9), Grid((9, 9, 9), (6.0, 6.0, 6.0)))
    with pytest.raises(ValueError, match="up to 6 mm and the descriptor was trained with 1.5 mm"):
        described(coarse)
    with pytest.raises(ValueError, match="NaN"):
        described(Image(torch.full((9, 9, 9), torch.nan), Grid((9, 9, 9))))


@pytest.mark.parametrize("name", ["pca", "autoencoder", "anatomy"])
def test_weights_of_another_kind_and_missing_ones_are_refused_at_once(name, tmp_path):
    other = weights_of("fusion", torch.nn.Conv2d(1, 1, 1), tmp_path)
    with pytest.raises(ValueError, match=f"for 'fusion' .* and weights for '{name}' are needed"):
        build({"name": name, "weights": other}, DESCRIPTORS)
    with pytest.raises(ValueError, match="there are no weights 'nothing'"):
        build({"name": name, "weights": "nothing"}, DESCRIPTORS)


@dataclass(frozen=True)
class Slow:
    """A first stage that must not be reached."""

    def register(self, pair, initial=None):
        raise AssertionError("the first stage ran")


def test_a_chain_refuses_unsuitable_images_before_its_first_stage(tmp_path):
    described = small("autoencoder", tmp_path)
    for inner in (described, Stacked((Mind(), described))):
        chain = Chain((Slow(), OnFeatures(inner, Instance(similarity=SSD()))))
        with pytest.raises(ValueError, match="the fixed image: it is 2D"):
            chain.register(blobs(dimension=2).pair)
        with pytest.raises(AssertionError, match="first stage ran"):
            chain.register(blobs(dimension=3).pair)


def test_the_network_sees_the_axes_of_the_patient():
    lattice = TrainedLattice(3, 2.0, "0..1", upright=True)
    data = torch.rand(6, 7, 8, generator=generator())
    image = Image(data, Grid((6, 7, 8), (2.0, 2.0, 2.0)))
    turned = Image(data.permute(2, 0, 1).flip(0), image.grid.with_axes((2, 0, 1), (0,)))
    assert torch.equal(lattice.values(turned), lattice.values(image))
    index = torch.arange(data.numel(), dtype=torch.float32).reshape(1, 6, 7, 8)
    (found,) = lattice.described(turned, lambda values: index)
    assert torch.equal(found[0], index[0].permute(2, 0, 1).flip(0))


def test_a_linear_image_comes_back_from_another_spacing():
    grid = Grid((20, 22, 24), (1.0, 1.2, 0.8))
    ramp = (grid.points() @ torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)).float()
    ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    (found,) = TrainedLattice(3, 2.0, "0..1").described(Image(ramp, grid), lambda values: values)
    inner = (slice(4, -4),) * 3
    assert torch.allclose(found[0][inner], ramp[inner], atol=1e-4)


def test_stacked_channels_follow_each_other_and_need_no_partner(tmp_path):
    image, model = blobs().pair.fixed, scripted(Layers(), tmp_path)
    found = Stacked((Mind(), Mind(2)))(image).data
    assert torch.equal(found, torch.cat([Mind()(image).data, Mind(2)(image).data]))
    with pytest.raises(ValueError, match="TorchScript describes both images together"):
        Stacked((TorchScript(model, trusted=True),))
    table = {"name": "stacked", "descriptors": ["intensity", {"name": "mind", "radius": 2}]}
    assert build(table, DESCRIPTORS).descriptors[1] == Mind(radius=2)


def test_a_torchscript_model_needs_your_trust_and_a_file(tmp_path):
    model = scripted(Layers(), tmp_path)
    with pytest.raises(ValueError, match="can read and write your files.*trusted = true"):
        TorchScript(model)
    with pytest.raises(ValueError, match="there is no TorchScript file"):
        TorchScript(model + "x", trusted=True)
    (tmp_path / "text.pt").write_text("no model")
    with pytest.raises(ValueError, match="text.pt: this is no TorchScript file"):
        TorchScript(str(tmp_path / "text.pt"), trusted=True)(blobs().pair.fixed)


def test_layers_of_a_torchscript_model_are_chosen_and_wrong_ones_named(tmp_path):
    model, image = scripted(Layers(), tmp_path), blobs().pair.fixed
    first = TorchScript(model, trusted=True, multiple=2)
    assert first(image).channels == 2
    both = replace(first, layers=(0, 1), channels=5)
    assert both(image).channels == 5
    with pytest.raises(ValueError, match="returns 2 layers; there is no layer 2"):
        replace(first, layers=(2,))(image)
    with pytest.raises(ValueError, match=r"layer 1 has to be a tensor \(1, channels, \*shape\)"):
        replace(first, layers=(1,))(blobs(dimension=2).pair.fixed)
    wide = replace(first, model=scripted(torch.nn.Conv3d(3, 4, 3), tmp_path))
    with pytest.raises(ValueError, match="model.pt failed on an input of shape .* one channel"):
        wide(image)


def test_two_images_are_reduced_to_the_same_components(tmp_path):
    """The distances of reduced vectors are nearly those of whole ones, between the images too."""
    pair = blobs().pair
    whole = TorchScript(scripted(Layers(), tmp_path), trusted=True, layers=(1,), multiple=2)
    reduced = replace(whole, channels=4)
    a, b = (i.data[:, 5:15, 5:15, 5:15] for i in whole.jointly(pair.fixed, pair.fixed))
    assert torch.equal(a, b)
    c, d = (
        i.data for i in reduced.jointly(pair.fixed, replace(pair.moving, data=-pair.moving.data))
    )
    alone = reduced(replace(pair.moving, data=-pair.moving.data)).data
    assert c.shape[0] == d.shape[0] == 4 and not torch.allclose(d, alone, atol=0.1)


def test_elastix_compares_descriptors_and_bends_less_with_a_penalty():
    case = blobs(dimension=2, deformation_mm=3.0)
    start = nearest_affine(case.true_transform, case.pair)
    spread = {}
    for weight in (0.0, 50.0):
        overrides = {
            "Transform": "BSplineTransform",
            "FinalGridSpacingInPhysicalUnits": 12,
            "NumberOfResolutions": 1,
            "MaximumNumberOfIterations": 60,
            "NumberOfSpatialSamples": 1000,
            "Metric": ["AdvancedMeanSquares", "TransformBendingEnergyPenalty"],
            "Metric0Weight": 1.0,
            "Metric1Weight": weight,
            "AutomaticTransformInitialization": False,
        }
        inner = {"name": "elastix", "parameter_files": ["rigid.txt"], "overrides": overrides}
        method = load_method({"name": "on-features", "descriptor": "mind", "method": inner})
        found = method.register(case.pair, start)
        assert sum(name.startswith("mean squares") for name in found.trace[-1].terms) == 4
        jacobian = jacobian_determinant(found.transform, case.pair.fixed.grid).data
        spread[weight] = jacobian.std().item()
    assert spread[0.0] > 0.05 and spread[50.0] < 0.7 * spread[0.0]


def nearest_affine(true, pair) -> AffineTransform:
    """The affine map nearest to a transform at the voxels of the fixed image."""
    points = pair.fixed.grid.points().flatten(0, -2)
    ones = torch.cat([points, torch.ones(len(points), 1, dtype=points.dtype)], 1)
    rows = torch.linalg.lstsq(ones, true(points)).solution.T
    return AffineTransform(
        torch.cat([rows, torch.tensor([[0.0] * rows.shape[0] + [1.0]]).to(rows)])
    )
