"""The store of targets: whole or absent at every moment, read back exactly, refused in words."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import zarr
from conftest import oblique_grid
from test_full_disk import files_of_at_most

from hybridreg.images import Image
from hybridreg.io.target_store import TargetStore, image_hash
from hybridreg.transforms import AffineTransform, rigid

SETTINGS = {"amplitude_mm": 8.0, "seed": 3}


def parts(dimension: int = 3, seed: int = 0) -> dict:
    """What a case is written from, on an oblique grid off the origin."""
    grid, generator = oblique_grid(dimension), torch.Generator().manual_seed(seed)
    fixed, moving = (Image(torch.rand(grid.shape, generator=generator), grid) for _ in range(2))
    angles = (4.0, -3.0, 5.0) if dimension == 3 else (4.0,)
    return {
        "grid": grid,
        "affine": rigid(angles, [1.0] * dimension, grid.center),
        "images": {"fixed": fixed, "moving": moving, "moving_on_grid": moving},
        "arrays": {"displacement": torch.randn(dimension, *grid.shape, generator=generator)},
        "attributes": {"seed": 7, "verdict": {"status": "pass", "reasons": []}},
    }


@pytest.fixture
def store(tmp_path) -> TargetStore:
    return TargetStore.begin(tmp_path / "targets.zarr", "known", SETTINGS)


def content(path: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_case_comes_back_as_it_was_written(dimension, store):
    given = parts(dimension)
    store.write("case 1", **given)
    assert store.finished() == ["case 1"] and store.has("case 1") and not store.has("case 2")
    case = TargetStore.open(store.path).read("case 1")
    assert case.grid == given["grid"] and case.array_names == ("displacement",)
    assert torch.equal(case.affine.matrix, given["affine"].matrix)
    assert torch.equal(store.array("case 1", "displacement"), given["arrays"]["displacement"])
    assert case.attributes["verdict"] == {"status": "pass", "reasons": []}
    for role, image in given["images"].items():
        found = store.image(case.images[role])
        assert torch.equal(found.data, image.data) and found.grid == image.grid


def test_an_image_is_there_once_under_the_hash_of_its_values_and_its_place(store):
    given = parts()
    store.write("a", **given)
    store.write("b", **given)
    fixed, moving = given["images"]["fixed"], given["images"]["moving"]
    names = {path.name for path in (store.path / "images").iterdir() if path.is_dir()}
    assert names == {image_hash(fixed), image_hash(moving)}
    moved = Image(fixed.data, fixed.grid.crop((1, 0, 0), (22, 31, 24)))
    assert image_hash(moved) != image_hash(fixed)
    assert image_hash(Image(fixed.data + 1e-6, fixed.grid)) != image_hash(fixed)


def test_the_same_cases_make_the_same_bytes_in_any_order(tmp_path):
    one, two = (TargetStore.begin(tmp_path / n, "known", SETTINGS) for n in ("1.zarr", "2.zarr"))
    for store, order in ((one, (0, 1)), (two, (1, 0))):
        for seed in order:
            store.write(str(seed), **parts(seed=seed))
    assert content(one.path) == content(two.path)


def test_any_reader_of_zarr_3_reads_it_without_a_warning(store, recwarn):
    store.write("a", **parts())
    group = zarr.open_group(store.path, mode="r")
    assert [name for name, _ in group.members()] and not recwarn.list
    array = group["cases/a/displacement"]
    assert array.metadata.zarr_format == 3 and array.chunks == (3, 32, 32, 32)
    assert list(store.path.parent.glob("*.partial/*")) == []


def test_a_case_that_another_was_faster_with_stays_as_it_is(store):
    store.write("a", **parts())
    before = content(store.path)
    store.write("a", **parts())
    assert content(store.path) == before


def test_one_run_at_a_time_fills_a_store(store):
    with store.writing(), pytest.raises(ValueError, match="another run is filling this store"):
        with store.writing():
            pass
    with store.writing():
        store.write("a", **parts())
    assert [path.name for path in store.path.parent.iterdir()] == ["targets.zarr"]


@pytest.mark.parametrize("bad", ["shape", "nan"])
def test_arrays_that_are_no_truth_are_not_stored(bad, store):
    given = parts()
    array = given["arrays"]["displacement"]
    given["arrays"] = {"displacement": array[:, 1:] if bad == "shape" else array / 0 * 0}
    with pytest.raises(ValueError, match="displacement of shape .* was not stored"):
        store.write("a", **given)
    assert store.finished() == []


@pytest.mark.parametrize("most", [0, 300, 3000, 60_000, 150_000])
def test_on_a_full_disk_no_case_is_half_there(most, store):
    """Limits that stop the group, the images or the array; noise, so that nothing shrinks it."""
    with files_of_at_most(most), pytest.raises(OSError) as caught:
        store.write("a", **parts())
    assert str(store.path) in str(caught.value) and "File too large" in str(caught.value)
    assert store.finished() == [] and list(store.path.parent.glob("*.partial/*")) == []
    for name in (store.path / "images").iterdir():
        if name.is_dir():
            store.image(name.name)  # whole, since it has its name
    store.write("a", **parts())
    assert torch.equal(store.array("a", "displacement"), parts()["arrays"]["displacement"])


def _fill(path: Path, names: list[str]):
    torch.set_num_threads(1)
    store = TargetStore.open(path)
    for name in names:
        if not store.has(name):
            store.write(name, **parts(seed=int(name) % 3))


def test_killed_at_any_moment_it_holds_whole_cases_only(tmp_path):
    """Filled to the end by two writers of the same images, it is as one never stopped."""
    names, fork = [str(number) for number in range(6)], multiprocessing.get_context("fork")
    whole = TargetStore.begin(tmp_path / "whole.zarr", "known", SETTINGS)
    start = time.monotonic()
    _fill(whole.path, names)
    lasted = time.monotonic() - start
    store = TargetStore.begin(tmp_path / "killed.zarr", "known", SETTINGS)
    moments = torch.rand(6, generator=torch.Generator().manual_seed(1)).tolist()
    for moment in moments:
        with store.writing():
            orders = names, names[::-1]
            writers = [fork.Process(target=_fill, args=(store.path, each)) for each in orders]
            for writer in writers:
                writer.start()
            time.sleep(moment * lasted / 4)
            for writer in writers:
                os.kill(writer.pid, signal.SIGKILL)
                writer.join()
        for name in store.finished():
            assert store.array(name, "displacement").isfinite().all()
            for image in store.read(name).images.values():
                store.image(image)
    _fill(store.path, names)
    assert content(store.path) == content(whole.path)


def damaged(store: TargetStore, how: str):
    """Spoils a finished case in one way."""
    case = store.path / "cases" / "a"
    (shard,) = [path for path in (case / "displacement" / "c").rglob("*") if path.is_file()]
    match how:
        case "chunk":
            data = bytearray(shard.read_bytes())
            data[len(data) // 2] ^= 0xFF
            shard.write_bytes(data)
        case "cut":
            shard.write_bytes(shard.read_bytes()[:-100])
        case "gone":
            shard.unlink()
        case "array":
            (case / "displacement" / "zarr.json").write_text("{")
        case "group":
            (case / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')


@pytest.mark.parametrize("how", ["chunk", "cut", "gone", "array", "group"])
def test_damage_is_found_and_named(how, store):
    store.write("a", **parts())
    damaged(store, how)
    with pytest.raises(ValueError, match="the case a is damaged .*remove it") as caught:
        store.read("a")
        store.array("a", "displacement")
    assert str(caught.value).startswith(str(store.path))


def test_a_damaged_image_is_found_and_named(store):
    store.write("a", **parts())
    name = store.read("a").images["fixed"]
    (shard,) = [p for p in (store.path / "images" / name / "c").rglob("*") if p.is_file()]
    shard.unlink()
    with pytest.raises(ValueError, match=f"the image {name} is damaged .*parts .* missing"):
        store.image(name)
    with pytest.raises(ValueError, match="there is no case 'b'"):
        store.read("b")


def rewritten(path: Path, change) -> Path:
    about = json.loads((path / "zarr.json").read_text())
    change(about)
    (path / "zarr.json").write_text(json.dumps(about))
    return path


def test_a_store_of_another_schema_a_foreign_folder_and_no_store_are_refused(store, tmp_path):
    zarr.create_group(tmp_path / "foreign.zarr", attributes={"title": "weather"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name in ("foreign.zarr", "folder", "file"):
        for use in (TargetStore.open, lambda path: TargetStore.begin(path, "known", SETTINGS)):
            with pytest.raises(ValueError, match=f"{name}: this is no store of training targets"):
                use(tmp_path / name)
    with pytest.raises(ValueError, match="there is no such store"):
        TargetStore.open(tmp_path / "none.zarr")
    with pytest.raises(ValueError, match="there is no folder .*: make it first"):
        TargetStore.begin(tmp_path / "none" / "t.zarr", "known", SETTINGS)
    newer = rewritten(store.path, lambda a: a["attributes"]["hybridreg"].update(schema=2))
    with pytest.raises(ValueError, match="has schema 2 and this version of hybridreg reads 1"):
        TargetStore.open(newer)
    (store.path / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match=r"its zarr.json is damaged"):
        TargetStore.open(store.path)


def test_a_store_is_continued_with_its_own_settings_only(store):
    assert TargetStore.begin(store.path, "known", SETTINGS) == store
    with pytest.raises(ValueError, match=r"other settings \(seed: 3 then, 4 now\)"):
        TargetStore.begin(store.path, "known", {**SETTINGS, "seed": 4})
    with pytest.raises(ValueError, match=r"\(kind: 'known' then, 'field' now\)"):
        TargetStore.begin(store.path, "field", {"seed": 3})


def test_an_affine_that_was_written_maps_points_to_the_same_places(store):
    given = parts()
    store.write("a", **given)
    affine: AffineTransform = store.read("a").affine
    points = given["grid"].corners()
    assert torch.equal(affine(points), given["affine"](points))
