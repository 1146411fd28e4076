"""``hybridreg fuse`` as a person or a script calls it."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

from hybridreg.cli.app import app
from hybridreg.fusion import FusionNetwork, fuse
from hybridreg.fusion.color import overlay
from hybridreg.fusion.fast import fast_network
from hybridreg.fusion.focus import ARCHITECTURE
from hybridreg.fusion_files import BASELINES, fuse_images
from hybridreg.fusion_scores import SCORES, fusion_scores
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.intensity import to_unit
from hybridreg.io.checkpoints import Card, write_checkpoint
from hybridreg.io.images import read_image, write_image
from hybridreg.phantoms import head, head_grid
from hybridreg.registry import DEFAULT_RULE


def invoke(*arguments, code: int = 0):
    done = CliRunner().invoke(app, ["fuse", *map(str, arguments)])
    assert done.exit_code == code, (done.output, done.exception)
    assert "Traceback" not in done.output
    return done


def answer(*arguments, code: int = 0) -> dict:
    return json.loads(invoke(*arguments, "--json", code=code).stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An oblique CT and T1 of one head on one grid, 3D and 2D, and CT shown in 8 bits."""
    folder = tmp_path_factory.mktemp("files")
    volumes = head_grid((6.0, 7.0, 8.0), angles_deg=(6.0, -4.0, 9.0))
    slices = head_grid(3.0, dimension=2)
    for name, grid in (("", volumes), ("-2d", slices)):
        for contrast in ("ct", "t1"):
            write_image(folder / f"{contrast}{name}.nii.gz", head(grid, contrast, noise=0.02))
    for contrast in ("ct", "t1"):
        unit, _ = to_unit(read_image(folder / f"{contrast}-2d.nii.gz"))
        write_image(folder / f"{contrast}.png", Image(unit.data * 255, unit.grid, "uint8"))
    return folder


def pair(files, name: str = "") -> list:
    return ["-f", files / f"ct{name}.nii.gz", "-m", files / f"t1{name}.nii.gz"]


def test_volumes_become_one_on_their_grid_with_a_sidecar(files, tmp_path):
    out = tmp_path / "fused.nii.gz"
    said = answer(*pair(files), "-o", out)
    ct, t1 = (read_image(files / f"{name}.nii.gz") for name in ("ct", "t1"))
    expected = fuse(to_unit(ct, "bone")[0], to_unit(t1, "percentiles")[0], rule=DEFAULT_RULE)
    fused = read_image(out)
    assert fused.dtype == "float32" and fused.grid.matches(ct.grid, 1e-4)
    assert torch.equal(fused.data, expected.image.data)
    sidecar = json.loads((tmp_path / "fused.json").read_text())
    assert "neither Hounsfield units" in sidecar["values"]
    assert (sidecar["fixed_scaling"]["low"], sidecar["fixed_scaling"]["high"]) == (-500, 1500)
    assert sidecar["moved_scaling"]["kind"] == "percentiles"
    assert (sidecar["rule"], sidecar["slices"], sidecar["scores"]) == (DEFAULT_RULE, None, {})
    digest = hashlib.sha256((files / "ct.nii.gz").read_bytes()).hexdigest()
    assert sidecar["inputs"]["fixed"]["sha256"] == digest
    assert "ct.nii.gz" not in json.dumps(sidecar)
    assert sidecar["versions"]["hybridreg"]
    assert said["sidecar"] == str(tmp_path / "fused.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fused.json", "fused.nii.gz"]


def test_settings_reach_the_fusion(files, tmp_path):
    out = tmp_path / "fused.mha"
    settings = ("--rule", "energy", "--slices", "coronal", "--fixed-window", "400,40")
    said = answer(*pair(files), "-o", out, *settings, "--moved-window", "0..900")
    ct, t1 = (read_image(files / f"{name}.nii.gz") for name in ("ct", "t1"))
    scaled = to_unit(ct, "-160..240")[0], to_unit(t1, "0..900")[0]
    expected = fuse(*scaled, rule="energy", slices="coronal")
    assert torch.equal(read_image(out).data, expected.image.data)
    assert (said["rule"], said["slices"]) == ("energy", "coronal")
    assert said["flicker"]["ratio"] == pytest.approx(expected.flicker.ratio)


def test_a_network_comes_from_the_file_of_its_weights(files, tmp_path):
    torch.manual_seed(3)
    network = FusionNetwork().eval()
    card = Card(
        kind="fusion",
        architecture=ARCHITECTURE,
        training_grid="none",
        intensity_rule="gray values in [0, 1]",
        data="none: random weights",
        data_licence="not stated",
        weights_licence="not stated",
        split={},
        seed=3,
        validation={},
    )
    weights = write_checkpoint(tmp_path / "net.safetensors", network.state_dict(), card=card)
    rule = ("--rule", "liu-2017", "--weights", weights)
    answer(*pair(files, "-2d"), "-o", tmp_path / "fused.nii.gz", *rule)
    sources = [to_unit(read_image(files / f"{name}-2d.nii.gz"))[0] for name in ("ct", "t1")]
    expected = fuse(*sources, rule="liu-2017", network=network)
    found = read_image(tmp_path / "fused.nii.gz")
    torch.testing.assert_close(found.data, expected.image.data, atol=1e-6, rtol=0)


def test_the_fast_rule_takes_its_own_weights_and_no_others(files, tmp_path):
    out = tmp_path / "fused.nii.gz"
    answer(*pair(files, "-2d"), "-o", out, "--rule", "liu-2017-fast")
    sources = [to_unit(read_image(files / f"{name}-2d.nii.gz"))[0] for name in ("ct", "t1")]
    expected = fuse(*sources, rule="liu-2017-fast", network=fast_network()).image.data
    torch.testing.assert_close(read_image(out).data, expected, atol=1e-6, rtol=0)
    published = ("--rule", "liu-2017-fast", "--weights", "fusion-focus", "--overwrite")
    said = answer(*pair(files, "-2d"), "-o", out, *published, code=2)
    assert "these weights are for 'fusion'" in said["error"]


def test_where_one_image_has_no_data_the_other_is_shown(files, tmp_path):
    ct = read_image(files / "ct.nii.gz")
    valid = torch.ones(ct.grid.shape, dtype=torch.int32)
    valid[: ct.grid.shape[0] // 2] = 0
    write_image(tmp_path / "valid.nii.gz", LabelMap(valid, ct.grid))
    mask = ("--moved-mask", tmp_path / "valid.nii.gz", "--feather-mm", 0)
    said = answer(*pair(files), "-o", tmp_path / "fused.nii.gz", *mask, "--scores")
    fused = read_image(tmp_path / "fused.nii.gz")
    shown = to_unit(ct)[0]
    torch.testing.assert_close(fused.data[0, valid == 0], shown.data[0, valid == 0])
    assert not torch.allclose(fused.data[0, valid == 1], shown.data[0, valid == 1], atol=0.1)
    # A mean that was scored where only CT is would be as bright as CT there.
    both = (valid == 1).numpy()
    t1 = to_unit(read_image(files / "t1.nii.gz"))[0]
    inside = both & np.asarray((shown.data[0] > 0.05) | (t1.data[0] > 0.05))
    mean = ((shown.data[0] + t1.data[0]) / 2).numpy()[inside].std()
    assert said["scores"]["mean"]["SD"] == pytest.approx(mean, rel=0.05)


def test_scores_stand_beside_those_of_trivial_fusions(files, tmp_path):
    out = tmp_path / "fused.nii.gz"
    said = answer(*pair(files, "-2d"), "-o", out, "--rule", "energy", "--scores")
    assert list(said["scores"]) == ["energy", *BASELINES]
    sources = [to_unit(read_image(files / f"{name}-2d.nii.gz"))[0] for name in ("ct", "t1")]
    for name in ("energy", "maximum"):
        expected = fusion_scores(fuse(*sources, rule=name).image, *sources)
        assert said["scores"][name] == pytest.approx(dict(expected.values), nan_ok=False)
    assert json.loads((tmp_path / "fused.json").read_text())["scores"] == said["scores"]


def test_the_table_of_scores_says_which_direction_is_better(files, tmp_path):
    out = tmp_path / "fused.nii.gz"
    done = invoke(*pair(files, "-2d"), "-o", out, "--rule", "laplacian", "--scores")
    for name, score in SCORES.items():
        (row,) = [line for line in done.stdout.splitlines() if line.split()[:1] == [name]]
        assert row.split()[1] == score.better and len(row.split()) == 2 + len(BASELINES)
    assert "bone CT window: -500 to 1500 HU became 0 to 1" in done.stdout


def test_scores_without_a_value_say_why(tmp_path):
    empty = Image(torch.zeros(1, 20, 24), head_grid(9.0, dimension=2).crop((0, 0), (20, 24)))
    fusion = fuse_images(empty, empty, fixed_window="0..1", moved_window="0..1", scored=True)
    summary = fusion.summary()
    assert set(summary["scores"]["mean"].values()) == {None}
    assert "only background" in summary["undefined_scores"]["mean"]["QABF"]


def test_pictures_become_a_picture_of_eight_bits(files, tmp_path):
    out = tmp_path / "fused.png"
    answer("-f", files / "ct.png", "-m", files / "t1.png", "-o", out)
    sources = [to_unit(read_image(files / f"{name}.png"))[0] for name in ("ct", "t1")]
    expected = fuse(*sources, rule=DEFAULT_RULE).image.data[0]
    picture = PIL.Image.open(out)
    assert picture.mode == "L"
    assert np.abs(np.asarray(picture) - 255 * expected.numpy()).max() <= 0.5 + 1e-4
    assert "rounded" in json.loads((tmp_path / "fused.json").read_text())["rounding"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_gray_given_as_color_is_gray(files, tmp_path, mode):
    PIL.Image.open(files / "t1.png").convert(mode).save(tmp_path / "t1.png")
    said = answer("-f", files / "ct.png", "-m", tmp_path / "t1.png", "-o", tmp_path / "a.png")
    answer("-f", files / "ct.png", "-m", files / "t1.png", "-o", tmp_path / "b.png")
    assert not said["color"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_color_picture_gives_its_color_to_the_result(files, tmp_path):
    gray = np.asarray(PIL.Image.open(files / "t1.png")).astype(np.int32)
    color = np.stack([gray // 2 + 60, gray // 3 + 60, 150 - gray // 4], -1).astype(np.uint8)
    PIL.Image.fromarray(color).save(tmp_path / "pet.png")
    said = answer("-f", files / "ct.png", "-m", tmp_path / "pet.png", "-o", tmp_path / "a.png")
    assert said["color"]
    fused = np.asarray(PIL.Image.open(tmp_path / "a.png")).astype(np.int32)
    uncut = ((fused > 0) & (fused < 255)).all(-1)
    # Equal steps in all channels leave their differences, rounded twice, as they were.
    differences = np.abs(np.diff(fused, axis=-1) - np.diff(color.astype(np.int32), axis=-1))
    assert uncut.mean() > 0.4 and differences[uncut].max() <= 1
    assert np.abs(fused - color).max() > 20


@pytest.mark.parametrize("ending", [".mha", ".nii.gz"])
def test_an_overlay_of_volumes_is_in_color_and_its_sidecar_says_so(files, tmp_path, ending):
    out = tmp_path / f"seen{ending}"
    said = answer(*pair(files), "-o", out, "--overlay", "cold", "--opacity", 0.5)
    ct, t1 = (to_unit(read_image(files / f"{name}.nii.gz"))[0] for name in ("ct", "t1"))
    expected = overlay(ct, t1, colormap="cold", opacity=0.5)
    seen = read_image(out)
    assert (seen.channels, seen.dtype) == (3, "uint8")
    assert (seen.data - 255 * expected.data).abs().max() <= 0.5 + 1e-4
    assert (said["overlay"], said["opacity"]) == ("cold", 0.5)
    sidecar = json.loads((tmp_path / "seen.json").read_text())
    assert "measured values are in the moved image" in sidecar["values"]


def test_an_overlay_is_no_fusion(files, tmp_path):
    out = tmp_path / "seen.mha"
    for arguments, words in (
        (["--overlay", "hot", "--rule", "mean"], "leave out --rule"),
        (["--overlay", "hot", "--scores"], "--scores"),
        (["--overlay", "jet"], "known are hot, cold"),
        (["--overlay", "hot", "--opacity", 2], "between 0 and 1"),
    ):
        assert words in answer(*pair(files), "-o", out, *arguments, code=2)["error"]
    assert not list(tmp_path.iterdir())


def test_other_grids_are_refused_with_the_way_out(files, tmp_path):
    out = tmp_path / "fused.nii.gz"
    said = answer("-f", files / "ct.nii.gz", "-m", files / "t1-2d.nii.gz", "-o", out, code=2)
    assert "register them first" in said["error"] and "hybridreg apply" in said["error"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "fused.jpg"], "written as one of .nii.gz"),
        (["-o", "fused.png"], "PNG holds 2D images"),
        (["-o", "no/such/fused.nii.gz"], "no folder"),
        (["-o", "a.nii.gz", "--rule", "wavelet"], "valid are: .*liu-2017"),
        (["-o", "a.nii.gz", "--weights", "mine"], "needs no network"),
        (["-o", "a.nii.gz", "--rule", "liu-2017", "--weights", "none-such"], "none-such"),
        (["-o", "a.nii.gz", "--slices", "oblique"], "axial, coronal, sagittal"),
        (["-o", "a.nii.gz", "--fixed-window", "soft"], "the fixed image: 'soft' is no way"),
        (["-o", "a.nii.gz", "--moved-window", "8bit"], "the moved image: its values go from"),
    ],
)
def test_wrong_usage_is_explained_and_leaves_nothing(
    files, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    assert re.search(words, answer(*pair(files), *arguments, code=2)["error"])
    assert not list(tmp_path.iterdir())


def test_help_names_the_rule_that_is_taken():
    text = " ".join(CliRunner().invoke(app, ["fuse", "--help"]).stdout.replace("│", " ").split())
    assert f"[default: ({DEFAULT_RULE})]" in text


def bad(what: str, folder, files) -> list:
    """Options of ``fuse`` with one input of a kind that it must not accept."""
    image = read_image(files / "t1.nii.gz")
    path, options = folder / "bad.nii.gz", ["-f", files / "ct.nii.gz", "-m", folder / "bad.nii.gz"]
    if what == "not finite":
        data = image.data.clone()
        data[0, 3, 4, 5] = torch.nan
        write_image(path, replace(image, data=data))
    elif what == "constant":
        write_image(path, replace(image, data=torch.full_like(image.data, 7.0)))
    elif what == "two colors":
        grid = Grid((20, 24))
        color = Image(torch.arange(3.0).reshape(3, 1, 1).expand(3, 20, 24) * 50, grid, "uint8")
        write_image(folder / "color.png", color)
        options = ["-f", folder / "color.png", "-m", folder / "color.png"]
    elif what == "a mask elsewhere":
        write_image(path, LabelMap(torch.ones(5, 6, 7), Grid((5, 6, 7))))
        options = [*pair(files), "--fixed-mask", path]
    elif what == "an empty mask":
        write_image(path, LabelMap(torch.zeros(image.grid.shape), image.grid))
        options = [*pair(files), "--moved-mask", path]
    return options


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("not finite", "moved image: it has 1 voxels that are NaN"),
        ("constant", r"moved image: it is constant \(7 everywhere\)"),
        ("two colors", "only one chroma can be kept"),
        ("a mask elsewhere", "does not lie on the grid"),
        ("an empty mask", "no data at all"),
    ],
)
def test_bad_input_is_refused_in_words_and_leaves_nothing(files, tmp_path, what, words):
    options = bad(what, tmp_path, files)
    before = sorted(tmp_path.iterdir())
    assert re.search(words, answer(*options, "-o", tmp_path / "fused.nii.gz", code=2)["error"])
    assert sorted(tmp_path.iterdir()) == before


def test_missing_input_is_named(files, tmp_path):
    lost = tmp_path / "lost.nii.gz"
    said = answer("-f", lost, "-m", files / "t1.nii.gz", "-o", tmp_path / "a.mha", code=2)
    assert "lost.nii.gz: there is no such file" in said["error"]


def test_what_exists_is_replaced_only_when_asked(files, tmp_path):
    out = tmp_path / "fused.png"
    pictures = ("-f", files / "ct.png", "-m", files / "t1.png", "-o", out)
    (tmp_path / "fused.json").write_text("mine")
    assert "fused.json exists already" in answer(*pictures, code=2)["error"]
    assert not out.exists()
    answer(*pictures, "--overwrite")
    first = out.read_bytes()
    assert "fused.png exists already" in answer(*pictures, "--rule", "mean", code=2)["error"]
    assert out.read_bytes() == first


def test_without_its_sidecar_no_image_is_left(files, tmp_path):
    (tmp_path / "fused.json").mkdir()
    out = tmp_path / "fused.png"
    pictures = ("-f", files / "ct.png", "-m", files / "t1.png", "-o", out, "--overwrite")
    answer(*pictures, code=2)
    assert [p.name for p in tmp_path.iterdir()] == ["fused.json"]


def test_names_are_kept_only_when_asked(files, tmp_path):
    answer(*pair(files), "-o", tmp_path / "a.nii.gz", "--keep-identifiers")
    sidecar = json.loads((tmp_path / "a.json").read_text())
    assert sidecar["inputs"]["moved"]["name"] == "t1.nii.gz"


@pytest.mark.parametrize("name", ["2010.png", "21010.png"])
def test_fused_real_slices_keep_bone_of_ct_and_tissue_of_mr(data, tmp_path, name):
    folder = data / "harvard_aanlib" / "CT-MRI"
    said = answer(
        *("-f", folder / "CT" / name, "-m", folder / "MRI" / name),
        *("-o", tmp_path / "fused.png", "--rule", "laplacian", "--scores"),
    )
    fused, mean = said["scores"]["laplacian"], said["scores"]["mean"]
    assert fused["QABF"] > mean["QABF"] + 0.1
    assert fused["edge_recall_fixed"] > max(0.9, mean["edge_recall_fixed"])
    assert None not in fused.values()
