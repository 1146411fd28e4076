"""Patches for training: cut where they say, seeded, shared out among workers, mixed over cases."""

from collections import Counter

import pytest
import torch
from test_target_store import parts
from torch.utils.data import DataLoader

from hybridreg.io.target_patches import TargetPatches
from hybridreg.io.target_store import TargetStore


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TargetStore:
    store = TargetStore.begin(tmp_path_factory.mktemp("s") / "t.zarr", "known", {"seed": 0})
    for number in range(5):
        given = parts(seed=number)
        images = given["images"]
        given["images"] = {"fixed_on_grid": images["fixed"], "moving_on_grid": images["moving"]}
        store.write(str(number), **given)
    return store


def test_a_patch_is_what_the_store_holds_at_its_place(store):
    patches = list(TargetPatches(store, size=7, patches_per_case=6, cases_in_memory=2))
    assert Counter(p["case"] for p in patches) == {str(n): 6 for n in range(5)}
    for patch in patches:
        case = store.read(patch["case"])
        place = tuple(slice(c, c + 7) for c in patch["corner"].tolist())
        roles = {"fixed": "fixed_on_grid", "moving": "moving_on_grid"}
        whole = {what: store.image(case.images[role]).data for what, role in roles.items()}
        whole["displacement"] = store.array(patch["case"], "displacement")
        for what, values in whole.items():
            assert torch.equal(patch[what], values[(slice(None), *place)])


def corners(dataset) -> list:
    return [(p["case"], *p["corner"].tolist()) for p in dataset]


def test_the_same_seed_and_epoch_draw_the_same_patches_and_no_others(store):
    def drawn(seed: int, epoch: int) -> list:
        dataset = TargetPatches(store, size=5, patches_per_case=8, cases_in_memory=3, seed=seed)
        dataset.epoch = epoch
        return corners(dataset)

    assert drawn(1, 0) == drawn(1, 0)
    assert len({tuple(drawn(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_cases_are_mixed_through_the_buffer(store):
    """Neighbours come from all the cases in memory: none are drawn out one after another."""
    dataset = TargetPatches(store, size=5, patches_per_case=40, cases_in_memory=5)
    first = Counter(case for case, *_ in corners(dataset)[:50])
    assert len(first) == 5 and max(first.values()) < 25
    one_by_one = TargetPatches(store, size=5, patches_per_case=40, cases_in_memory=1)
    assert len({case for case, *_ in corners(one_by_one)[:40]}) == 1


def test_workers_share_the_cases_out(store):
    dataset = TargetPatches(store, size=5, patches_per_case=4, arrays=("displacement",))
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    found = corners(loader)
    assert Counter(case for case, *_ in found) == {str(n): 4 for n in range(5)}
    assert len(set(found)) > 15 and found == corners(loader)


def test_patches_come_in_batches(store):
    batch = next(iter(DataLoader(TargetPatches(store, size=5, cases=["1", "3"]), batch_size=8)))
    assert batch["fixed"].shape == (8, 1, 5, 5, 5)
    assert batch["displacement"].shape == (8, 3, 5, 5, 5)
    assert set(batch["case"]) <= {"1", "3"}


def test_the_middle_of_a_patch_shows_something(tmp_path):
    """Of an image that is empty but for a corner of 1 in 8."""
    given = parts()
    image = given["images"]["fixed"]
    image.data[:, 10:] = image.data[:, :, 15:] = image.data[:, :, :, 12:] = 0
    store = TargetStore.begin(tmp_path / "t.zarr", "known", {})
    store.write("a", **{**given, "images": {"fixed_on_grid": image, "moving_on_grid": image}})
    found = TargetPatches(store, size=5, patches_per_case=100)
    inside = [bool(image.data[(0, *[c + 2 for c in p["corner"].tolist()])] > 0) for p in found]
    assert sum(inside) > 85  # 20 draws of 1 in 5 or so; by chance alone it would be 20


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
