"""Patches for training: cut where they say, and drawn from seed and step alone."""

import pickle

import pytest
import torch
from test_target_store import parts

from hybridreg.io.target_store import TargetStore
from hybridreg.target_patches import IMAGES, TargetPatches


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TargetStore:
    store = TargetStore.begin(tmp_path_factory.mktemp("s") / "t.zarr", "known", {"seed": 0})
    for number in range(5):
        given = parts(seed=number)
        images = given["images"]
        given["images"] = {"fixed_on_grid": images["fixed"], "moving_on_grid": images["moving"]}
        store.write(str(number), **given)
    return store


def step(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_patch_is_what_the_store_holds_at_its_place(store):
    batch = TargetPatches(store, size=7, intensity=None).draw(20, step(0))
    assert batch["fixed"].shape == (20, 1, 7, 7, 7)
    assert batch["displacement"].shape == (20, 3, 7, 7, 7)
    for number, name in enumerate(str(n) for n in batch["case"].tolist()):
        case = store.read(name)
        place = tuple(slice(c, c + 7) for c in batch["corner"][number].tolist())
        whole = {what: store.image(case.images[role]).data for what, role in IMAGES.items()}
        whole["displacement"] = store.array(name, "displacement")
        for what, values in whole.items():
            assert torch.equal(batch[what][number], values[(slice(None), *place)])


def test_a_batch_depends_on_its_generator_alone(store):
    """Not on what was drawn before, on the size of the cache, or on the process."""
    patches = TargetPatches(store, size=5)
    third = [patches.draw(6, step(n)) for n in (1, 2, 3)][-1]
    small = TargetPatches(store, size=5, cases_in_memory=1)
    sent = pickle.loads(pickle.dumps(patches))
    assert not sent._cache
    assert all(same(third, other.draw(6, step(3))) for other in (patches, small, sent))
    assert not torch.equal(third["corner"], patches.draw(6, step(4))["corner"])


def test_a_batch_mixes_cases_and_its_cache_keeps_the_last_ones(store):
    patches = TargetPatches(store, size=5, cases_per_draw=3, cases_in_memory=2)
    batch = patches.draw(60, step(0))
    counts = torch.bincount(batch["case"], minlength=5)
    assert (counts > 0).sum() == 3 and counts.max() < 35
    assert len(patches._cache) == 2
    assert len({n for s in range(20) for n in patches.draw(4, step(s))["case"].tolist()}) == 5


def test_images_are_scaled_by_the_rule_of_the_network(store):
    raw = TargetPatches(store, size=5, intensity=None).draw(4, step(0))
    window = TargetPatches(store, size=5, intensity="0..2").draw(4, step(0))
    assert torch.allclose(window["fixed"], raw["fixed"] / 2)
    assert torch.equal(window["displacement"], raw["displacement"])


def test_the_center_of_a_patch_shows_something(tmp_path):
    """Of an image that is empty but for a corner of 1 in 8."""
    given = parts()
    image = given["images"]["fixed"]
    image.data[:, 10:] = image.data[:, :, 15:] = image.data[:, :, :, 12:] = 0
    store = TargetStore.begin(tmp_path / "t.zarr", "known", {})
    store.write("a", **{**given, "images": {"fixed_on_grid": image, "moving_on_grid": image}})
    corners = TargetPatches(store, size=5, intensity=None).draw(100, step(0))["corner"]
    inside = [bool(image.data[(0, *[c + 2 for c in corner])] > 0) for corner in corners.tolist()]
    assert sum(inside) > 85  # 20 tries of 1 in 5 or so; without them about 20


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 22}, "patches of 22 voxels do not fit into the case 0"),
        ({"size": 0}, "the size must be at least 1"),
        ({"arrays": ["momentum"]}, "no array momentum; they have displacement"),
        ({"cases": []}, "the number of cases must be at least 1"),
        ({"cases": ["9"]}, "there is no case '9'"),
        ({"cases_in_memory": 0}, "the cases_in_memory must be at least 1"),
    ],
)
def test_mistakes_are_said_before_anything_is_read(settings, words, store):
    with pytest.raises(ValueError, match=words):
        TargetPatches(store, **settings)
