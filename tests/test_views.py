import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import oblique_grid

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid, apply_matrix
from hybridreg.images import Image, LabelMap
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    BSplineTransform,
    CompositeTransform,
    DisplacementField,
    rigid,
)
from hybridreg.views import (
    MAX_VOXELS,
    axis_letters,
    choose_window,
    load_views,
    make_views,
    save_views,
)
from hybridreg.warping import jacobian_determinant, warp

LAS = ((1, 0, 0), (0, -1, 0), (0, 0, 1))
CORONAL = ((-1, 0, 0), (0, 0, 1), (0, -1, 0))  # voxel axes run to the right, down and back
GRIDS = {
    "upright": Grid((20, 24, 22), (1, 1, 1), (5, -7, 30)),
    "LAS": Grid((20, 24, 22), (1, 1, 1), (5, 80, 30), LAS),
    "coronal slices": Grid((12, 30, 28), (1.1, 1.1, 3.0), (40, -20, 60), CORONAL),
    "oblique": oblique_grid(),
    "oblique, left-handed": oblique_grid(left_handed=True),
    "2D": Grid((26, 31), (0.8, 0.8), (3, 4)),
    "2D oblique, left-handed": oblique_grid(2, left_handed=True),
}
anywhere = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def ellipsoid(points: torch.Tensor, grid: Grid) -> torch.Tensor:
    """A soft object that fills the middle of a field of view, from 0 to 100,
    at points in LPS mm.
    """
    axes = torch.tensor(grid.direction, dtype=torch.float64)
    half = 0.36 * torch.tensor(grid.extent, dtype=torch.float64)
    return 100 * torch.sigmoid(8 * (1 - ((points - grid.center) @ axes / half).norm(dim=-1)))


def spotted(points: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The same with a bright ball off its center, so that no two directions are alike."""
    center = grid.center + torch.tensor([0.1, -0.13, 0.17][: grid.dimension]) * min(grid.extent)
    distance = (points - center).norm(dim=-1) / (2.5 * max(grid.spacing))
    return 0.5 * ellipsoid(points, grid) + 100 * torch.exp(-(distance**2))


def drawn(shape, grid: Grid) -> Image:
    return Image(shape(grid.points(), grid), grid)


def views_of(image: Image, transform=IDENTITY, **more) -> dict[str, np.ndarray]:
    return make_views(ImagePair(image, image), transform, **more)


def display_grid(views: dict[str, np.ndarray]) -> Grid:
    shape = views["fixed"].shape
    return Grid(shape, views["spacing_mm"], views["origin_mm"], views["direction"])


def smooth_transform(grid: Grid, size_mm: float = 2.0) -> CompositeTransform:
    """A turn and a B-spline, different along every axis."""
    dimension = grid.dimension
    control = grid.with_spacing([max(grid.extent) / 4] * dimension)
    control = control.crop([-3] * dimension, [n + 3 for n in control.shape])
    noise = torch.Generator().manual_seed(4)
    coefficients = size_mm * torch.randn(dimension, *control.shape, generator=noise)
    turn = rigid([6.0, -4.0, 3.0][: 1 if dimension == 2 else 3], [1.0] * dimension, grid.center)
    return CompositeTransform((turn, BSplineTransform(coefficients, control)))


@anywhere
def test_everything_stays_where_it_is_in_the_patient(grid):
    image = drawn(spotted, grid)
    views, window = views_of(image), choose_window(image)
    points = display_grid(views).points()
    exact, found = window.apply(spotted(points, grid)), views["fixed"]
    np.testing.assert_array_equal(found, views["moved"])
    error = abs(found.astype(int) - exact).mean()  # of interpolation
    shift = 0.5 * min(grid.spacing) / math.sqrt(grid.dimension)
    shifted = window.apply(spotted(points + shift, grid))
    assert error < 0.35 * abs(found.astype(int) - shifted).mean()


@anywhere
def test_display_axes_run_nearest_to_left_back_and_up(grid):
    direction = views_of(drawn(ellipsoid, grid))["direction"]
    assert np.linalg.det(direction) == pytest.approx(1)
    assert (direction.diagonal() > 0).all()
    kept = sorted(map(tuple, abs(np.round(direction.T, 6))))
    assert kept == sorted(map(tuple, abs(np.round(np.array(grid.direction).T, 6))))
    signed = (
        np.array(order)[:, None] == np.arange(grid.dimension)
        for order in itertools.permutations(range(grid.dimension))
    )
    assert np.trace(direction) == pytest.approx(
        max((abs(direction) * permutation).sum() for permutation in signed)
    )


def test_an_upright_isotropic_image_is_shown_voxel_by_voxel():
    grid = GRIDS["LAS"]
    image = drawn(ellipsoid, grid)
    views = views_of(image)
    upright = choose_window(image).apply(image.data[0])[:, ::-1]  # LAS runs to the front
    shape = views["fixed"].shape
    start = np.round(views["origin_mm"] - (5, 80 - 23, 30)).astype(int)[::-1]
    box = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
    np.testing.assert_array_equal(views["fixed"], upright[box])
    np.testing.assert_array_equal(views["spacing_mm"], (1, 1, 1))


@pytest.mark.parametrize(
    ("grid", "letters"),
    [
        (GRIDS["upright"], [("R", "L"), ("A", "P"), ("I", "S")]),
        (GRIDS["LAS"], [("R", "L"), ("P", "A"), ("I", "S")]),
        (GRIDS["coronal slices"], [("L", "R"), ("S", "I"), ("A", "P")]),
        (GRIDS["2D"], [("", ""), ("", "")]),
    ],
)
def test_letters_name_the_patients_sides(grid, letters):
    assert axis_letters(grid) == letters


def test_letters_of_the_display_and_of_far_turned_axes():
    for name in ("LAS", "coronal slices", "upright"):
        letters = views_of(drawn(ellipsoid, GRIDS[name]))["letters"].tolist()
        assert letters == [["R", "L"], ["A", "P"], ["I", "S"]]
    turned = rigid((0, 0, 40), (0, 0, 0), (0, 0, 0)).linear  # x towards y: left and back
    letters = axis_letters(Grid((9, 9, 9), direction=turned))
    assert letters == [("RA", "LP"), ("AL", "PR"), ("I", "S")]
    slightly = rigid((0, 0, 20), (0, 0, 0), (0, 0, 0)).linear
    assert axis_letters(Grid((9, 9, 9), direction=slightly)) == axis_letters(GRIDS["upright"])


@anywhere
@pytest.mark.parametrize("affine", [True, False])
def test_before_is_the_moving_image_through_the_initial_transform(grid, affine):
    image = drawn(ellipsoid, grid)
    moving = drawn(spotted, grid)
    initial = smooth_transform(grid)
    initial = initial.parts[0] if affine else initial
    views = make_views(ImagePair(image, moving), IDENTITY, initial=initial)
    window = choose_window(moving)
    exact = warp(moving, initial, onto=display_grid(views), default=window.low)
    difference = views["before"].astype(int) - window.apply(exact.data[0])
    # Both only round differently, but at the border, where ITK repeats the outermost half voxel.
    index = apply_matrix(grid.physical_to_voxel(), initial(display_grid(views).points()))
    inside = ((index >= 0) & (index <= torch.tensor(grid.size) - 1)).all(-1).numpy()
    assert abs(difference[inside]).max() <= 1
    assert inside.mean() > 0.5 and views["before"][inside].std() > 30


@anywhere
def test_missing_results_are_computed(grid):
    image = drawn(ellipsoid, grid)
    pair = ImagePair(image, drawn(spotted, grid))
    transform = smooth_transform(grid)
    field = DisplacementField.sampled(transform, grid)
    default = choose_window(pair.moving).low
    given = make_views(
        pair,
        IDENTITY,  # not looked at, as the results are given
        moved=warp(pair.moving, transform, onto=grid, default=default),
        field=field,
        jacobian=jacobian_determinant(field, grid),
    )
    computed = make_views(pair, transform)
    for name in ("jacobian", "displacement", "spacing_mm"):
        np.testing.assert_array_equal(computed[name], given[name])
    difference = computed["moved"].astype(int) - given["moved"]
    assert abs(difference).max() <= 1  # the field is float32
    assert computed["moved"].std() > 10


@anywhere
def test_displacement_has_components_along_the_display_axes(grid):
    shift = torch.tensor([3.0, -2.0, 5.0][: grid.dimension], dtype=torch.float64)
    views = views_of(
        drawn(ellipsoid, grid), AffineTransform.from_parts(torch.eye(grid.dimension), shift)
    )
    shown = np.moveaxis(views["displacement"], 0, -1).astype(float) @ views["direction"].T
    assert abs(shown - shift.numpy()).max() < 0.01  # float16
    np.testing.assert_allclose(views["jacobian"], 1, atol=1e-3)


def test_jacobian_and_displacement_cover_the_same_field_of_view():
    grid = Grid((120, 110, 100), (1, 1, 1))
    image = Image(torch.rand(grid.shape), grid)
    stretch = AffineTransform(torch.diag(torch.tensor([1.1, 0.9, 1.2, 1.0])))
    views = views_of(image, stretch)
    size = np.array(views["fixed"].shape[::-1]) * views["spacing_mm"]
    coarse = np.array(views["jacobian"].shape[::-1]) * views["coarse_spacing_mm"]
    np.testing.assert_allclose(size, coarse)
    assert views["jacobian"].shape == (60, 55, 50)
    # u = 0.1 x, and the centers of coarse voxels lie at x = 0.5, 2.5, 4.5, 6.5 mm.
    np.testing.assert_allclose(views["displacement"][0, 0, 0, 1:4], (0.25, 0.45, 0.65), atol=2e-3)


@pytest.mark.parametrize("left_handed", [False, True])
def test_an_affine_is_shown_as_its_field_would_be(left_handed):
    """It is computed where it is shown; inside, averages of its field are the same to float16."""
    grid = Grid(
        (104, 110, 108), (1, 1.1, 0.9), (3, 4, 5), oblique_grid(left_handed=left_handed).direction
    )
    image = drawn(ellipsoid, grid)
    turn = rigid([4.0, -3.0, 6.0], [2.0, 1.0, -3.0], grid.center)
    field = DisplacementField.sampled(turn, grid)
    direct = views_of(image, turn)
    dense = views_of(image, turn, field=field, jacobian=jacobian_determinant(field, grid))
    inside = (slice(None), *[slice(2, -2)] * 3)
    assert direct["displacement"].shape == dense["displacement"].shape
    assert direct["displacement"].shape[1] < 60
    difference = direct["displacement"].astype(float) - dense["displacement"]
    assert abs(difference[inside]).max() < 0.03 and abs(dense["displacement"]).max() > 3
    np.testing.assert_allclose(direct["jacobian"], 1, atol=1e-3)
    np.testing.assert_allclose(dense["jacobian"], 1, atol=1e-3)


def test_one_folded_voxel_survives_the_halving():
    grid = Grid((120, 110, 100), (1, 1, 1))
    image = Image(torch.rand(grid.shape), grid)
    determinant = torch.ones(grid.shape)
    determinant[31, 41, 51] = -0.01
    determinant[60] = 1e-9  # nearly flat, but no fold
    field = DisplacementField(torch.zeros(3, *grid.shape), grid)
    shown = views_of(image, field=field, jacobian=Image(determinant, grid))["jacobian"]
    assert np.argwhere(shown <= 0).tolist() == [[15, 20, 25]]


def test_volumes_stay_small_and_nearly_isotropic():
    grid = Grid((40, 700, 600), (0.4, 0.4, 4.0))
    rows = torch.arange(700)[:, None] + torch.arange(600)
    image = Image((rows % 50).float().expand(grid.shape), grid)
    field = DisplacementField(torch.zeros(3, *grid.shape), grid)
    views = views_of(image, moved=image, field=field, jacobian=Image(image.data + 1, grid))
    assert views["fixed"].size < 1.02 * MAX_VOXELS
    assert views["spacing_mm"].max() / views["spacing_mm"].min() < 1.01
    np.testing.assert_allclose(display_grid(views).extent, grid.extent)
    big = views_of(Image(torch.rand(40, 2100), Grid((40, 2100), (0.5, 0.5))))
    assert big["fixed"].shape == (20, 1024)


def test_empty_borders_are_cut_and_labels_follow():
    grid = Grid((40, 50, 60), (1, 1, 1), (0, 50, 0), LAS)
    data, labels = torch.zeros(grid.shape), torch.zeros(grid.shape, dtype=torch.int32)
    data[10:30, 20:40, 15:40] = torch.rand(20, 20, 25) + 1
    labels[10:30, 20:40, 15:40] = 2035
    coarse = grid.with_spacing((2, 2, 2))
    views = views_of(
        Image(data, grid),
        fixed_labels=LabelMap(labels, grid),
        moved_labels=LabelMap(torch.full(coarse.shape, 70_000), coarse),
    )
    assert views["fixed"].shape == (24, 24, 29)  # 8 % more on either side
    expected = np.zeros((24, 24, 29), bool)
    expected[2:22, 2:22, 2:27] = True
    np.testing.assert_array_equal(views["fixed_labels"] == 2035, expected)
    assert (views["fixed"][~expected] == 0).all() and views["fixed"][expected].mean() > 100
    assert views["fixed_labels"].dtype == np.uint16
    assert views["moved_labels"].dtype == np.int32 and (views["moved_labels"] == 70_000).all()


def ct(**fractions: float) -> Image:
    """Voxels of the given HU in the given numbers, with a few of metal."""
    values = {"air": -1000, "lung": -800, "fat": -90, "brain": 35, "muscle": 60, "bone": 900}
    parts = [torch.full((round(1000 * n),), float(values[name])) for name, n in fractions.items()]
    data = torch.cat([*parts, torch.full((100,), 3000.0)])
    data = data[: len(data) // 10 * 10].reshape(10, -1)
    return Image(data, Grid(tuple(data.shape)))


@pytest.mark.parametrize(
    ("image", "low", "high", "name"),
    [
        (ct(air=3, brain=3, bone=1, fat=1), -20, 100, "CT brain"),
        (ct(air=3, lung=4, muscle=3, fat=2, bone=0.3), -1000, 400, "CT wide"),
        (ct(air=3, muscle=4, fat=3, bone=0.3), -160, 240, "CT soft tissue"),
    ],
)
def test_ct_gets_a_window_in_hu(image, low, high, name):
    window = choose_window(image)
    assert (window.low, window.high) == (low, high)
    assert window.name.startswith(name)


def test_other_images_get_percentiles_of_their_foreground():
    values = torch.linspace(100, 1100, 10_000)
    data = torch.cat([torch.zeros(30_000), values]).reshape(200, 200)
    window = choose_window(Image(data, Grid((200, 200))))
    assert window.low == pytest.approx(110, abs=1)
    assert window.high == pytest.approx(1095, abs=1)
    shown = window.apply(torch.tensor([0.0, window.low, (window.low + window.high) / 2, 9e9]))
    np.testing.assert_allclose(shown, (0, 0, 127.5, 255), atol=0.5)
    two = choose_window(Image((torch.arange(100).reshape(10, 10) % 2).float(), Grid((10, 10))))
    assert (two.low, two.high) == (0, 1)


def test_views_are_read_as_written_and_written_the_same_twice(tmp_path):
    views = views_of(drawn(ellipsoid, oblique_grid()), smooth_transform(oblique_grid()))
    save_views(tmp_path / "a.npz", views)
    save_views(tmp_path / "b.npz", views)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = load_views(tmp_path / "a.npz")
    assert list(found) == list(views)
    for name, array in views.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_damaged_views_are_refused_in_words(tmp_path):
    path = tmp_path / "views.npz"
    save_views(path, views_of(drawn(ellipsoid, GRIDS["2D"])))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged .* run the case again"):
            load_views(path)
    np.savez(path, fixed=np.array([{"a": 1}], dtype=object))  # would need a pickle
    with pytest.raises(ValueError, match="damaged"):
        load_views(path)


def test_results_on_another_grid_are_refused():
    image = drawn(ellipsoid, GRIDS["LAS"])
    with pytest.raises(ValueError, match="moved .* does not lie on the fixed grid"):
        views_of(image, moved=drawn(ellipsoid, GRIDS["upright"]))


def test_a_real_brain_is_shown_with_its_left_on_the_right(data):
    folder = data / "oasis_malf35" / "subjects"
    image, labels = (sitk.ReadImage(str(folder / f"1000_{kind}.nii.gz")) for kind in ("SS", "glm"))
    axes = np.array(image.GetDirection()).reshape(3, 3)
    grid = Grid(image.GetSize()[::-1], image.GetSpacing(), image.GetOrigin(), axes)
    arrays = [
        torch.from_numpy(sitk.GetArrayFromImage(i).astype(np.float32)) for i in (image, labels)
    ]
    fixed, label_map = Image(arrays[0], grid), LabelMap(arrays[1], grid)
    field = DisplacementField(torch.zeros(3, *grid.shape), grid)
    ones = Image(torch.ones(grid.shape), grid)
    views = views_of(fixed, moved=fixed, field=field, jacobian=ones, fixed_labels=label_map)
    left, right, brain_stem, cerebellum = (
        np.argwhere(views["fixed_labels"] == label).mean(0) for label in (45, 44, 35, 39)
    )
    assert left[2] > right[2] + 20  # columns run to the patient's left
    assert cerebellum[1] > brain_stem[1] + 10  # rows run to the back
    assert left[0] > cerebellum[0] + 20  # slices run upwards
    assert apply_matrix(display_grid(views).voxel_to_physical(), torch.zeros(3)).isfinite().all()
    assert math.prod(views["fixed"].shape) < MAX_VOXELS
