import base64
import gzip
import hashlib
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conftest import oblique_grid
from PIL import Image as Picture

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.io import output
from hybridreg.report import curves, figures, tables, viewer, write_report
from hybridreg.transforms import IDENTITY, AffineTransform, DisplacementField
from hybridreg.views import load_views, make_views, save_views

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&</style></script>"


def blobs(grid: Grid) -> Image:
    axes = torch.tensor(grid.direction, dtype=torch.float64)
    offsets = (grid.points() - grid.center) @ axes / torch.tensor(grid.extent, dtype=torch.float64)
    ball = torch.sigmoid(30 * (0.4 - offsets.norm(dim=-1)))
    stripes = 1 + 0.4 * torch.sin(25 * offsets[..., 0]) * torch.cos(19 * offsets[..., 1])
    return Image(500 * ball * stripes, grid)


def halves(grid: Grid, shift: float = 0.0) -> LabelMap:
    """Labels 3 and 7 to either side of the middle along the x axis, in the middle of the rest."""
    axes = torch.tensor(grid.direction, dtype=torch.float64)
    offsets = (grid.points() - grid.center) @ axes / torch.tensor(grid.extent, dtype=torch.float64)
    inside = offsets.norm(dim=-1) < 0.3
    return LabelMap(torch.where(offsets[..., 0] < shift, 3, 7) * inside, grid)


def side(dice: float, tre_mm: float) -> dict:
    """Scores of one side as the package writes them."""
    return {
        "region": "foreground",
        "dice": {"mean": dice, "overall": dice + 0.01, "missing_labels": 0},
        "landmarks": {"count": 12, "mean_mm": tre_mm, "max_mm": 2 * tre_mm},
        "jacobian": {
            "voxels": 99,
            "folding_percent": 0.0,
            "log_sd": 0.11,
            "minimum": 0.31,
            "p1": 0.52,
            "p99": 1.73,
            "maximum": 2.25,
        },
        "labels": [
            {"label": 3, "name": "right half", "dice": dice, "hd95_mm": 3.25},
            {"label": 7, "name": "left half", "dice": dice / 2, "hd95_mm": None},
        ],
    }


def result() -> dict:
    return {
        "schema": 1,
        "case": "case-17",
        "created": "2026-11-22T15:40:12+00:00",
        "command": "hybridreg register -f https://example.org/f.nii -m m.nii -o out",
        "versions": {"hybridreg": "0.1.0", "torch": "2.13.0"},
        "method": {"name": "chain", "stages": [{"name": "elastix", "seed": 5}]},
        "inputs": {
            name: {"name": name, "sha256": "ab" * 32, "size": [24, 31, 21], "dtype": "int16"}
            for name in ("fixed", "moving")
        },
        "transform": {
            "kinds": ["affine", "B-spline"],
            "rotation_deg": [5.25, -1e-14, 0.5],
            "translation_mm": [3.5, -12.25, 0.0],
            "scales": [1.02, 0.98, 0.95],
            "reflects": False,
            "displacement_mm": {"mean": 3.125, "p95": 7.5, "max": 11.75},
        },
        "inverse": {"mean_residual_mm": 0.0025, "max_residual_mm": 0.125},
        "similarity": {
            "before": {"overlap": 0.75, "mutual_information": 0.375, "correlation": -0.25},
            "after": {"overlap": 0.875, "mutual_information": 1.125, "correlation": None},
        },
        "scores": {"before": side(0.25, 8.5), "after": side(0.75, 1.25)},
        "verdict": {"status": "warn", "reasons": ["the overlap is small"]},
        "warnings": ["the moving image has no qform"],
        "times_s": {"read": 0.5, "register": 12.25},
        "trace": [["affine", level, i, {"metric": -i / 7}] for level in (0, 1) for i in range(9)],
    }


def make_folder(folder, grid: Grid, values: dict | None = None, **more):
    image = blobs(grid)
    labels = {"fixed_labels": halves(grid), "moved_labels": halves(grid, 0.05)}
    views = make_views(ImagePair(image, image), more.pop("transform", IDENTITY), **labels, **more)
    folder.mkdir(exist_ok=True)
    save_views(folder / output.VIEWS, views)
    output.write_json(folder / output.RESULT, result() if values is None else values)
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("report") / "head", oblique_grid())


@pytest.fixture(scope="module")
def slice_2d(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("report") / "slice", oblique_grid(2))


class Page(HTMLParser):
    """Elements, attributes and visible words of a page."""

    VOID = ("meta", "img", "input", "line", "polyline")

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words = ""
        self.contents: dict[str, str] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.words += " "
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            key = self.elements[-1][1].get("id", self.open[-1])
            self.contents[key] = self.contents.get(key, "") + data
        else:
            self.words += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def picture(uri: str) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize("which", ["head", "slice_2d"])
def test_the_page_stands_alone(which, request):
    folder = request.getfixturevalue(which)
    page = page_of(folder)
    assert page.open == []
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert all(link["href"].startswith("#") for link in page.all("a"))
    for tag in ("link", "iframe", "object", "embed", "base", "form", "video", "source"):
        assert page.all(tag) == []
    for tag, attributes in page.elements:
        kept = {"src", "href", "srcset", "action", "data", "poster"} & set(attributes)
        assert kept <= {"src"} if tag == "img" else kept <= {"href"}
        assert not any(name.startswith("on") for name in attributes)
    code = page.contents["style"] + page.contents["script"]
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp|WebSocket|import\(", code)
    assert len(write_report(folder).read_bytes()) < 3_000_000


@pytest.mark.parametrize("which", ["head", "slice_2d"])
def test_the_content_policy_allows_only_this_script(which, request):
    page = page_of(request.getfixturevalue(which))
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    digest = hashlib.sha256(page.contents["script"].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_nothing_from_the_results_becomes_markup(tmp_path):
    def hostile(value):
        if isinstance(value, dict):
            return {key: hostile(item) for key, item in value.items()} | {HOSTILE: HOSTILE}
        if isinstance(value, list):
            return [hostile(item) for item in value]
        return HOSTILE if isinstance(value, str) else value

    values = hostile(result())
    values["verdict"]["status"] = "fail"
    values["trace"] = [[HOSTILE, 0, i, {HOSTILE: float(i)}] for i in range(5)]
    folder = make_folder(tmp_path / "out", oblique_grid(), values)
    plain = page_of(make_folder(tmp_path / "plain", oblique_grid()))
    page = page_of(folder)
    assert len(page.all("script")) == len(plain.all("script")) == 3
    assert len(page.all("img")) == len(plain.all("img"))
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert page.words.count("<script>alert('x')</script>") > 15
    assert page.contents["script"] == plain.contents["script"]


def test_the_same_folder_gives_the_same_page(head):
    first = write_report(head).read_bytes()
    assert write_report(head).read_bytes() == first


def test_a_3d_page_shows_three_planes_of_everything(head):
    page = page_of(head)
    names = [image["alt"] for image in page.all("img")]
    for plane in ("axial", "coronal", "sagittal"):
        of_plane = [name for name in names if plane in name]
        for what, count in (("fixed", 5), ("before", 5), ("moved", 5), ("edges", 5), ("grid", 1)):
            assert sum(f", {what}, " in name for name in of_plane) == count, (plane, what)
    assert [c["id"] for c in page.all("canvas")] == [
        "viewer-axial",
        "viewer-coronal",
        "viewer-sagittal",
    ]


def test_a_2d_page_shows_one_plane_without_letters(slice_2d):
    page = page_of(slice_2d)
    assert [c["id"] for c in page.all("canvas")] == ["viewer-image"]
    assert len(page.all("img")) == 3 + 5
    assert not any("letter" in span.get("class", "") for span in page.all("span"))


def test_the_numbers_are_reported(head):
    words = " ".join(page_of(head).words.split())
    for text in (
        "case-17",
        "method chain",
        "hybridreg 0.1.0",
        "research software, not a medical device",
        "Check the overlap is small",
        "the moving image has no qform",
        "Mutual information (nats) 0.375 1.125",
        "Correlation −0.25 –",
        "Mean Dice 0.25 0.75",
        "Landmark error, mean (mm) 8.5 1.25",
        "affine, then B-spline",
        "x 5.25°, y 0°, z 0.5°",
        "x 3.5 mm, y −12.25 mm, z 0 mm",
        "mean 3.125 mm, 95 % of voxels under 7.5 mm, at most 11.75 mm",
        "0 folds: the transform is one-to-one at every voxel of the foreground",
        "0.52 to 1.73 (1st to 99th percentile), 0.31 to 2.25 in all",
        "mean 0.0025 mm, at most 0.125 mm",
        "Dice, before Dice, after HD95 (mm), before HD95 (mm), after",
        "3 right half 0.25 0.75 3.25 3.25 7 left half 0.125 0.375 – –",
        "24 × 31 × 21",
        "ab" * 32,
        "Total 12.75",
        "https://example.org/f.nii",
    ):
        assert text in words, text


@pytest.mark.parametrize("missing", [*result(), "views", "everything"])
def test_what_is_missing_is_left_out(missing, tmp_path):
    values = {} if missing == "everything" else result()
    values.pop(missing, None)
    folder = make_folder(tmp_path / "out", oblique_grid(2), values)
    if missing == "views":
        (folder / output.VIEWS).unlink()
    page = page_of(folder)
    assert page.open == [] and "not a medical device" in page.words
    assert bool(page.all("img")) == (missing != "views")


@pytest.mark.parametrize(
    "values",
    [
        {key: None for key in result()},
        {key: "text" for key in result()},
        {key: 3.5 for key in result()},
        {key: {"after": 1, "stages": {}, "kinds": 2, "scales": "x"} for key in result()},
        {key: [] for key in result()},
        {key: {} for key in result()},
    ],
)
def test_sections_of_another_kind_do_no_harm(values, tmp_path):
    folder = make_folder(tmp_path / "out", oblique_grid(2), values)
    assert page_of(folder).open == []


def test_a_folder_without_results_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="has no result.json: a report is made from"):
        write_report(tmp_path)
    for broken in ("{", "3", '"text"', "[1, 2]", ""):
        (tmp_path / output.RESULT).write_text(broken)
        with pytest.raises(ValueError, match="holds no results .* run the case again"):
            write_report(tmp_path)


def folded_views(dimension: int) -> dict[str, np.ndarray]:
    grid = oblique_grid(dimension)
    determinant = torch.full(grid.shape, 1.3)
    determinant[tuple(slice(n // 2, n // 2 + 3) for n in grid.shape)] = -0.2
    zero = DisplacementField(torch.zeros(dimension, *grid.shape), grid)
    image = blobs(grid)
    jacobian = Image(determinant, grid)
    return make_views(ImagePair(image, image), IDENTITY, field=zero, jacobian=jacobian)


def is_color(pixels: np.ndarray, color: tuple[int, int, int], tolerance: int = 60) -> np.ndarray:
    return abs(pixels.astype(int) - color).max(-1) < tolerance


@pytest.mark.parametrize("dimension", [2, 3])
def test_folds_are_red_and_the_slices_go_through_them(dimension):
    drawn = figures.Figures(folded_views(dimension))
    assert drawn.has_folds
    for panel in drawn.jacobian()[0]:
        red = is_color(picture(panel.images["jacobian"]), figures.FOLD_COLOR)
        assert 0.002 < red.mean() < 0.2
    for panel in figures.Figures(
        {**drawn.views, "jacobian": abs(drawn.views["jacobian"])}
    ).jacobian()[0]:
        assert not is_color(picture(panel.images["jacobian"]), figures.FOLD_COLOR).any()


def test_folds_are_reported_with_their_fraction(tmp_path):
    values = result()
    values["scores"]["after"]["jacobian"]["folding_percent"] = 0.375
    folder = make_folder(tmp_path / "out", oblique_grid(2), values)
    save_views(folder / output.VIEWS, folded_views(2))
    words = page_of(folder).words
    assert "0.375 % of the voxels of the foreground are folded" in words
    assert "Folded voxels anywhere are red" in words and "0 folds" not in words


def test_lines_of_the_deformed_grid_are_as_far_apart_as_the_transform_says():
    grid = Grid((200, 240), (1, 1))
    stretch = torch.diag(torch.tensor([1.25, 0.8, 1.0]))
    image = Image(torch.rand(grid.shape) + 1, grid)
    views = make_views(ImagePair(image, image), AffineTransform(stretch))
    drawn = figures.Figures(views)
    assert drawn.grid_step_mm == 10
    panel = drawn.deformation()[0][0]
    pixels = picture(panel.images["grid"]).astype(float)
    zoom = pixels.shape[1] / 240
    green = pixels[..., 1] - pixels[..., 2]  # the picture below is gray
    for axis, apart_mm in ((0, 10 / 1.25), (1, 10 / 0.8)):
        profile = np.median(green, axis)
        lines = np.flatnonzero(
            (profile[1:-1] > 25) & (profile[1:-1] >= profile[2:]) & (profile[1:-1] > profile[:-2])
        )
        assert np.diff(lines).mean() / zoom == pytest.approx(apart_mm, abs=0.1)
        # A line every 10 mm from the low face of the grid on, where T is 10, 20, ... mm.
        low = -0.5 * (1.25, 0.8)[axis] + 0.5
        first = (lines[0] + 1.5) / zoom * 10 / apart_mm + low
        assert first % 10 == pytest.approx(0, abs=0.6) or first % 10 == pytest.approx(10, abs=0.6)


def test_label_outlines_have_the_colors_of_their_legend(head):
    drawn = figures.Figures(load_views(head / output.VIEWS))
    assert sorted(drawn.outlined_labels()) == [3, 7]
    panel = drawn.labels()[0][1]
    pixels = picture(panel.images["labels"])
    for color in (figures.FIXED_COLOR, figures.MOVED_COLOR):
        assert 0.002 < is_color(pixels, color).mean() < 0.1


def test_panels_keep_directions_and_proportions(head):
    views = load_views(head / output.VIEWS)
    axial, coronal, sagittal = figures.Figures(views).frames()
    size = np.array(views["fixed"].shape[::-1]) * views["spacing_mm"]
    assert (axial.width_mm, axial.height_mm) == pytest.approx((size[0], size[1]))
    assert (coronal.width_mm, coronal.height_mm) == pytest.approx((size[0], size[2]))
    assert (sagittal.width_mm, sagittal.height_mm) == pytest.approx((size[1], size[2]))
    volume = views["fixed"]
    np.testing.assert_array_equal(figures.PLANES[3][0].cut(volume, 4), volume[4])
    np.testing.assert_array_equal(figures.PLANES[3][1].cut(volume, 5), volume[::-1, 5])
    np.testing.assert_array_equal(figures.PLANES[3][2].cut(volume, 6), volume[::-1, :, 6])
    ends = np.array([["R", "L"], ["A", "P"], ["I", "S"]])
    letters = [list(plane.letters(ends).values()) for plane in figures.PLANES[3]]
    assert letters == [["R", "L", "A", "P"], ["R", "L", "S", "I"], ["A", "P", "S", "I"]]


def unpack(settings: dict, data: str) -> np.ndarray:
    flat = np.frombuffer(gzip.decompress(base64.b64decode(data)), np.uint8)
    grays = np.cumsum(flat, dtype=np.uint8) * (255 / (settings["grays"] - 1))
    return grays.reshape(3, *settings["size"][::-1])


def test_the_viewer_gets_the_volumes_exactly_where_they_fit(head):
    views = load_views(head / output.VIEWS)
    settings, data = viewer.pack(views)
    assert settings["grays"] == 256 and list(settings["size"]) == settings["shown"]
    for name, volume in zip(settings["names"], unpack(settings, data), strict=True):
        np.testing.assert_array_equal(volume, views[name])
    first = np.array(settings["corner"]) + views["direction"] @ views["spacing_mm"] / 2
    np.testing.assert_allclose(first, views["origin_mm"])


def test_large_volumes_lose_grays_then_resolution(head, monkeypatch):
    views = load_views(head / output.VIEWS)
    noise = np.random.default_rng(1).integers(-20, 20, views["fixed"].shape)
    views["fixed"] = np.clip(views["fixed"] + noise, 0, 255).astype(np.uint8)
    whole = len(viewer.pack(views)[1]) * 3 / 4
    monkeypatch.setattr(viewer, "BUDGET", 0.9 * whole)
    settings, data = viewer.pack(views)
    assert settings["grays"] == 64 and list(settings["size"]) == settings["shown"]
    assert abs(unpack(settings, data)[0] - views["fixed"]).max() <= 4
    monkeypatch.setattr(viewer, "BUDGET", 0.2 * whole)
    settings, data = viewer.pack(views)
    assert len(data) * 3 / 4 < 1.15 * 0.2 * whole
    moved = unpack(settings, data)[2]
    extent = np.array(settings["size"]) * settings["spacing"]
    np.testing.assert_allclose(extent, np.array(views["moved"].shape[::-1]) * views["spacing_mm"])
    for axis in range(3):  # still in the same place: the center of mass as a fraction of each axis
        fractions = []
        for volume in (moved, views["moved"].astype(float)):
            profile = volume.sum(tuple(a for a in range(3) if a != axis))
            fractions.append(
                ((np.arange(len(profile)) + 0.5) * profile).sum() / profile.sum() / len(profile)
            )
        assert fractions[0] == pytest.approx(fractions[1], abs=0.005)


def test_curves_follow_the_trace_level_by_level():
    trace = [["a", 0, 0, {"m": 4.0}], ["a", 0, 1, {"m": 2.0}], ["a", 1, 0, {"m": 3.0}]]
    trace += [["a", 1, 1, {"m": 0.0}], ["b", 0, 0, {"m": 1.0}]]
    (curve,) = curves.curves(trace)  # one value of stage b makes no line
    assert curve.lines == ["0.0,0.0 100.0,55.0", "200.0,27.5 300.0,110.0"]
    assert (curve.title, curve.low, curve.high, curve.iterations) == ("a: m", "0", "4", 4)
    assert curve.starts == [200.0]
    assert curves.curves([["a", 0, 0, {"m": None}], "damaged", ["a", 0, 1, {"m": 1.0}]]) == []
    long = [["a", 0, i, {"m": float(i), "n": 1.0}] for i in range(10_000)]
    assert all(len(curve.lines[0]) < 3000 for curve in curves.curves(long))


def test_an_exact_inverse_is_called_exact():
    inverse = {"mean_residual_mm": 0.0, "max_residual_mm": 0.0}
    (table,) = tables.deformation({"inverse": inverse})
    assert table.rows == [("Inverse misses by", "nothing, it is exact")]


def test_before_and_after_stand_side_by_side():
    scores = {"before": {"dice": {"mean": 0.5}}, "after": {"dice": {"mean": 0.75}}}
    (table,) = tables.comparison({"scores": scores})
    assert table.rows == [("Mean Dice", "0.5", "0.75")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (0.0, "0"),
        (-1.23456, "−1.235"),
        (3, "3"),
        ([1.0, 2.5], "1 × 2.5"),
        ("<b>", "<b>"),
    ],
)
def test_values_in_words(value, text):
    assert tables.words(value) == text


def test_the_table_of_all_scores_shows_what_was_measured_and_nothing_else():
    side = {
        "dice": {"mean": 0.5},
        "truth": {"rotation_deg": 3.4e-14, "mean_mm": -2e-7, "p95_mm": 2e-5},
        "labels": [],
    }
    _, everything = tables.comparison({"scores": {"before": side, "after": side}})
    assert everything.rows == [
        ("Dice: Mean", "0.5", "0.5"),
        ("Truth: Rotation (°)", "0", "0"),
        ("Truth: Mean (mm)", "0", "0"),
        ("Truth: 95th percentile (mm)", "2e−05", "2e−05"),
    ]


def chromium() -> str | None:
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


def loaded(folder, address: str, profile) -> Page:
    """The page as a browser without network leaves it."""
    quiet = ("networking", "timer-throttling")
    command = [
        chromium(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-quic",
        "--disable-sync",
        "--disable-component-update",
        *[f"--disable-background-{what}" for what in quiet],
        "--window-size=1300,2000",
        "--virtual-time-budget=5000",
        f"--user-data-dir={profile}",
        "--dump-dom",
        (folder / output.REPORT).as_uri() + address,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Page(done.stdout)


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
@pytest.mark.parametrize("which", ["head", "slice_2d"])
def test_the_viewer_draws_the_slices_that_the_address_names(which, request, tmp_path):
    folder = request.getfixturevalue(which)
    write_report(folder)
    views = load_views(folder / output.VIEWS)
    at = {"x": 11, "y": 14, "z": 9}
    planes = figures.PLANES[views["fixed"].ndim]
    cuts = {
        name: [p.cut(views[name], 0 if p.normal is None else at["xyz"[p.normal]]) for p in planes]
        for name in ("fixed", "moved")
    }
    expected = {name: np.mean([cut.mean() for cut in cuts[name]]) for name in cuts}
    address = "&".join(f"{axis}={index}" for axis, index in at.items())
    for mode, brightness in (
        ("mode=blend&amount=0", expected["fixed"]),
        ("mode=swipe&amount=0", expected["moved"]),
        ("mode=difference", 127.5 + (expected["moved"] - expected["fixed"]) / 2),
    ):
        page = loaded(folder, f"#{mode}&{address}", tmp_path / "profile")
        (section,) = [s for s in page.all("section") if s.get("id") == "viewer"]
        assert section["data-state"] == "ready"
        assert float(section["data-brightness"]) == pytest.approx(brightness, abs=0.6)
    assert expected["fixed"] > 20
