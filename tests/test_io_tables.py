"""Landmarks come out in LPS mm whatever dialect they were written in; case tables are checked whole."""

import csv
import json
import math
import re
from dataclasses import fields

import pytest
import SimpleITK as sitk
import torch
from conftest import oblique_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridreg.images import Image, LandmarkSet
from hybridreg.io.files import whole_file
from hybridreg.io.images import read_image, to_sitk
from hybridreg.io.landmarks import read_landmarks, write_landmarks
from hybridreg.io.tables import CaseRow, absolute, read_case_table

POINTS = [[1.5, -2.25, 1e-3], [-40.0, 0.1, 1204.5]]
NAMES = ("left", "right, upper")


def written(folder, text: str, name: str = "p.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("dimension", [2, 3])
def test_landmarks_are_written_in_full_precision(dimension, tmp_path):
    points = torch.randn(20, dimension, dtype=torch.float64) * 100 + math.pi
    landmarks = LandmarkSet(points, [f"point {i}, ü" for i in range(20)])
    write_landmarks(tmp_path / "p.csv", landmarks)
    again = read_landmarks(tmp_path / "p.csv", dimension=dimension)
    assert torch.equal(again.points, points) and again.names == landmarks.names
    header = (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == ",".join(["name", *"xyz"[:dimension]])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])), min_size=1))
def test_every_name_comes_back_and_none_is_a_formula(tmp_path_factory, names):
    names = [name.strip() for name in names]
    if not any(names):
        return
    path = tmp_path_factory.mktemp("names") / "p.csv"
    write_landmarks(path, LandmarkSet(torch.ones(len(names), 2), names))
    assert read_landmarks(path).names == tuple(names)
    with path.open(encoding="utf-8", newline="") as file:
        cells = [row[0] for row in csv.reader(file)]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def test_names_that_a_spreadsheet_would_run_are_defused(tmp_path):
    names = ("=1+1", "+49", "-", "@x", "\t=1", "'=quoted", "'plain", "plain")
    write_landmarks(tmp_path / "p.csv", LandmarkSet(torch.ones(8, 3), names))
    assert "'=1+1," in (tmp_path / "p.csv").read_text()
    assert read_landmarks(tmp_path / "p.csv").names == names


DIALECTS = {
    "names last": 'x,y,z,name\n1.5,-2.25,1e-3,left\n-40,0.1,1204.5,"right, upper"\n',
    "semicolons": "name;x;y;z\nleft;1.5;-2.25;0.001\nright, upper;-40;0.1;1204.5\n",
    "tabs": "Name\tX_mm\tY_mm\tZ_mm\nleft\t1.5\t-2.25\t.001\nright, upper\t-40\t.1\t1204.5\n",
    "ANTs": 'x,y,z,t,label,comment\n1.5,-2.25,0.001,0,left,\n-40,.1,1204.5,0,"right, upper",a\n',
    "LPS": 'l,p,s,label\n1.5,-2.25,0.001,left\n-40,.1,1204.5,"right, upper"\n',
    "RAS": 'label,R,A,S\nleft,-1.5,2.25,0.001\n"right, upper",40,-.1,1204.5\n',
    "byte order mark": '\ufeffx, y, z, name\n1.5,-2.25,.001,left\n-40,.1,1204.5,"right, upper"\n',
    "other line ends": 'x,y,z,name\r\n1.5,-2.25,1e-3,left\r\n\r\n-40,0.1,1204.5,"right, upper"\r\n',
}


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS.keys())
def test_tables_with_a_header_are_read(text, tmp_path):
    (tmp_path / "p.csv").write_bytes(text.encode())
    found = read_landmarks(tmp_path / "p.csv", dimension=3)
    assert found.points.tolist() == POINTS and found.names == NAMES


@pytest.mark.parametrize(
    "text",
    [
        "1.5 -2.25 1e-3\n-40 0.1 1204.5\n",
        "# x y z\n1.5,-2.25,0.001\n\n-40,0.1,1204.5",
        "1.5e+00\t-2.25\t1.000e-03\n-4.0e+01\t0.1\t1204.5\n",
        "point\n2\n1.5 -2.25 0.001\n-40 0.1 1204.5\n",
        "# from elastix\n\nPoint\n 2 \n1.5 -2.25 0.001\n-40.000 0.1 1.2045e3\n\n",
    ],
)
def test_bare_columns_and_elastix_points_are_read(text, tmp_path):
    found = read_landmarks(written(tmp_path, text, "p.txt"))
    assert found.points.tolist() == POINTS and found.names == ("1", "2")


@pytest.mark.parametrize("left_handed", [False, True])
def test_elastix_indices_are_placed_by_their_image(left_handed, tmp_path):
    grid = oblique_grid(left_handed=left_handed)
    path = written(tmp_path, "index\n2\n0 0 0\n5 12 20\n", "p.txt")
    image = to_sitk(Image(torch.zeros(grid.shape), grid))
    expected = [image.TransformIndexToPhysicalPoint(i) for i in ((0, 0, 0), (5, 12, 20))]
    found = read_landmarks(path, grid=grid).points
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9)
    with pytest.raises(ValueError, match="index.*image"):
        read_landmarks(path)
    with pytest.raises(ValueError, match="3D, but the images are 2D"):
        read_landmarks(path, grid=oblique_grid(2))


def fcsv(system: str, sign: float) -> str:
    rows = "".join(
        f"vtkMRMLMarkupsFiducialNode_{i},{sign * x},{sign * y},{z},0,0,0,1,1,1,0,{label},,\n"
        for i, ((x, y, z), label) in enumerate(zip(POINTS, ("left", '"right, upper"'), strict=True))
    )
    return (
        f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {system}\n"
        f"# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n{rows}"
    )


@pytest.mark.parametrize(("system", "sign"), [("LPS", 1), ("1", 1), ("RAS", -1), ("0", -1)])
def test_slicer_fiducials_are_turned_to_lps(system, sign, tmp_path):
    found = read_landmarks(written(tmp_path, fcsv(system, sign), "p.fcsv"))
    assert found.points.tolist() == POINTS and found.names == NAMES


def markups(system: str, sign: float, **changes) -> str:
    points = [
        {"label": label, "position": [sign * x, sign * y, z], "positionStatus": "defined"}
        for (x, y, z), label in zip(POINTS, NAMES, strict=True)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": system, "controlPoints": points, **changes}
    return json.dumps({"@schema": "markups", "markups": [markup]})


@pytest.mark.parametrize(("system", "sign"), [("LPS", 1), ("RAS", -1)])
def test_slicer_markups_are_turned_to_lps(system, sign, tmp_path):
    text = markups(system, sign, coordinateUnits="mm")
    found = read_landmarks(written(tmp_path, text, "p.mrk.json"), dimension=3)
    assert found.points.tolist() == POINTS and found.names == NAMES


THREE = [[1.0, 2, 3], [0, 0, 0], [7, 8, 9]]
UNDEFINED = {  # three points each, of which the second has not been placed
    "p.mrk.json": json.dumps({"markups": [{
        "type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": ["mm", "UCUM", "mm"],
        "controlPoints": [
            {"label": f"F-{i}", "position": point, "positionStatus": status}
            for i, (point, status) in enumerate(zip(THREE, ("defined", "STATUS", "defined")), 1)
        ],
    }]}),
    "p.fcsv": "# Markups fiducial file version = 5.2\n# CoordinateSystem = LPS\n"
    "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    "1,1,2,3,0,0,0,1,1,1,0,F-1,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,F-2,,,STATUS,0\n"
    "3,7,8,9,0,0,0,1,1,1,0,F-3,,,2,0\n",
    "p.csv": "label,l,p,s,defined,selected,visible,locked,description\n"
    "F-1,1,2,3,1,1,1,0,\nF-2,0,0,0,STATUS,1,1,0,\nF-3,7,8,9,1,1,1,0,\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "status"),
    [
        *[("p.mrk.json", status) for status in ("undefined", "preview", "missing")],
        *[("p.fcsv", status) for status in "013"],
        ("p.csv", "0"),
    ],
)
def test_points_that_slicer_says_are_not_placed_are_left_out(name, status, tmp_path, caplog):
    text = UNDEFINED[name].replace("STATUS", status)
    found = read_landmarks(written(tmp_path, text, name))
    assert found.points.tolist() == [[1, 2, 3], [7, 8, 9]] and found.names == ("F-1", "F-3")
    assert "1 of 3 points have no position in Slicer and are left out (number 2)" in caplog.text
    unnamed = read_landmarks(written(tmp_path, re.sub(r"F-\d", "", text), name))
    assert unnamed.names == ("1", "3")  # so that the wrong ones are not taken for a pair
    placed = text.replace(f'"{status}"', '"defined"').replace(f",{status},0\n3", ",2,0\n3")
    placed = placed.replace("0,0,0,0,1,1,0", "0,0,0,1,1,1,0")
    caplog.clear()
    assert read_landmarks(written(tmp_path, placed, name)).points.tolist() == THREE
    assert not caplog.records


def test_of_transformix_points_the_output_is_read_and_that_is_said(tmp_path, caplog):
    text = "".join(
        f"Point\t{i}\t; InputIndex = [ 1 2 3 ]\t; InputPoint = [ 5.0 6.0 7.0 ]\t; "
        f"OutputIndexFixed = [ 9 9 9 ]\t; OutputPoint = [ {x} {y} {z} ]\t; "
        "Deformation = [ 1.0 1.0 1.0 ]\t; OutputIndexMoving = [ 8 8 8 ]\n"
        for i, (x, y, z) in enumerate(POINTS)
    )
    found = read_landmarks(written(tmp_path, text, "outputpoints.txt"), dimension=3)
    assert found.points.tolist() == POINTS and "OutputPoint was read" in caplog.text


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("ending", [".csv", ".fcsv", ".mrk.json", ".txt"])
def test_points_are_written_in_the_format_of_their_ending(ending, dimension, tmp_path, caplog):
    points = torch.randn(5, dimension, dtype=torch.float64) * 100 + math.pi
    names = ("left", "right, upper", 'the "third"', "ü", "5")
    path = tmp_path / f"p{ending}"
    write_landmarks(path, LandmarkSet(points, names))
    again = read_landmarks(path, dimension=dimension)
    assert torch.equal(again.points, points)
    assert again.names == (("1", "2", "3", "4", "5") if ending == ".txt" else names)
    assert ("no names" in caplog.text) == (ending == ".txt")
    first, text = points[0].tolist(), path.read_text(encoding="utf-8")
    if ending == ".mrk.json":
        (markup,) = json.loads(text)["markups"]
        assert markup["type"] == "Fiducial" and markup["coordinateSystem"] == "LPS"
        assert markup["controlPoints"][0]["position"] == [*first, 0.0][:3]
    elif ending == ".fcsv":
        assert text.splitlines()[1] == "# CoordinateSystem = LPS"
        assert text.splitlines()[3].split(",")[1:4] == [repr(x) for x in [*first, 0.0][:3]]
    elif ending == ".txt":
        assert text.splitlines()[:2] == ["point", "5"]
        assert text.splitlines()[2].split() == list(map(repr, first))


def test_an_unknown_ending_of_points_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"written as .csv, .fcsv, .mrk.json, .txt"):
        write_landmarks(tmp_path / "p.vtk", LandmarkSet(torch.ones(1, 3)))
    assert not any(tmp_path.iterdir())


def test_the_lung_landmarks_of_elastix_lie_as_far_apart_as_is_known(data):
    folder = data / "lung_ct_elastix"
    for ending, count, mean_mm in (("", 100, 34.3), ("_corrected", 51, 35.3)):
        fixed, moving = (
            read_landmarks(folder / f"CT_3D_lung_{side}_point_set{ending}.txt", dimension=3)
            for side in ("fixed", "moving")
        )
        assert len(fixed.points) == len(moving.points) == count
        distance = (fixed.points - moving.points).norm(dim=1).mean().item()
        assert distance == pytest.approx(mean_mm, abs=0.05)
    same = read_landmarks(folder / "3DCT_lung_baseline_landmarks.txt")
    assert same.points[0].tolist() == [-36.351, -36.974, -1204.5]


def test_the_lung_indices_of_elastix_lie_where_simpleitk_puts_them(data):
    for side in ("baseline", "followup"):
        stem = data / "lung_ct_elastix" / f"3DCT_lung_{side}"
        rows = stem.with_suffix(".txt").read_text().split("\n")[2:12]
        image = sitk.ReadImage(str(stem.with_suffix(".mha")))
        expected = [image.TransformIndexToPhysicalPoint([int(n) for n in r.split()]) for r in rows]
        grid = read_image(stem.with_suffix(".mha")).grid
        found = read_landmarks(stem.with_suffix(".txt"), grid=grid).points
        assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6)


def test_a_third_coordinate_is_dropped_in_2d_only_where_it_says_nothing(tmp_path):
    flat = written(tmp_path, "x,y,z,t\n1,2,0,0\n3,4,0,0\n")
    assert read_landmarks(flat, dimension=2).points.tolist() == [[1, 2], [3, 4]]
    assert read_landmarks(flat, grid=oblique_grid(2)).points.shape == (2, 2)
    assert read_landmarks(flat).points.shape == (2, 3)
    with pytest.raises(ValueError, match="3D, but the images are 2D"):
        read_landmarks(written(tmp_path, "x,y,z\n1,2,0\n3,4,5\n"), dimension=2)
    with pytest.raises(ValueError, match="2D, but the images are 3D"):
        read_landmarks(written(tmp_path, "x,y\n1,2\n"), dimension=3)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.csv", "", "empty"),
        ("p.csv", "x,y,z\n", "no points"),
        ("p.csv", "i,j,k\n1,2,3\n", "i, j, k.*LPS"),
        ("p.csv", "x_ras,y_ras,z_ras\n1,2,3\n", "x_ras"),
        ("p.csv", "x,y,z,unit\n1,2,3,cm\n", "unknown columns unit"),
        ("p.csv", "x,y,z,r,a,s\n1,2,3,4,5,6\n", "coordinates are read from"),
        ("p.csv", "x,y,x\n1,2,3\n", "'x' occurs twice"),
        ("p.csv", "x,y,z\n1,2,3\n\n4,5\n", "line 4: 3 cells expected, found 2"),
        ("p.csv", "x,y,z\n1,2,3\n4,five,6\n", "line 3: .*'five'"),
        ("p.csv", "x,y,z\n1,2,nan\n", "line 2: .*'nan'"),
        ("p.csv", "x,y,z\n1,2,1e999\n", "line 2: .*'1e999'"),
        ("p.csv", "x,y,z\n1,2,1_000\n", "line 2: .*'1_000'"),
        ("p.csv", "x;y;z\n1,5;2;3\n", "line 2: .*'1,5' .decimals need a point"),
        ("p.csv", 'x,y,z\n1,2,"3\n', "line 2"),
        ("p.txt", "1 2 3\n4 5\n", "line 2: 3 numbers expected, found 2"),
        ("p.txt", "1 2 3\n4 5 six\n", "line 2: .*'six'"),
        ("p.txt", "1 2 3 4\n", "2 or 3 numbers expected, found 4"),
        ("p.txt", "1,5,2,5,3,5\n", "line 1: 2 or 3 numbers expected, found 6 .*decimals"),
        ("p.txt", "1,5 2,5\n", "line 1: decimals need a point, not a comma, found '1,5 2,5'"),
        ("p.txt", "# mm\n10,5; 20\n", "line 2: decimals need a point"),
        ("p.txt", "point\n1\n1,5 2,5 3,5\n", "line 3: decimals need a point"),
        ("p.csv", "x,y,z\n1,5,2,5,3,5\n", "line 2: 3 cells expected, found 6 .*decimals need"),
        ("p.csv", "x\ty\tz\n-1,5\t2\t3\n", "line 2: .*'-1,5' .decimals need a point"),
        ("p.txt", "Point\t0\t; InputPoint = [ 1 2 3 ]\n", "line 1: transformix's OutputPoint"),
        ("p.txt", "point\n3\n1 2 3\n4 5 6\n", "line 2 tells of 3 points, but 2 follow"),
        ("p.txt", "point\n1 2 3\n4 5 6\n", "line 2: the number of points"),
        ("p.txt", "point\n1\n1 2 x\n", "line 3"),
        ("p.txt", "point\n", "line 2: the number of points"),
        ("p.fcsv", fcsv("IJK", 1), "LPS or RAS.*IJK"),
        ("p.fcsv", "a,1,2,3\n", "found none"),
        ("p.fcsv", fcsv("LPS", 1).replace("-2.25", "?"), "line 4: .*'\\?'"),
        (
            "p.fcsv",
            fcsv("LPS", 1).replace("1.5,-2.25,0.001", "1,5,-2,25,0,001"),
            "found 17 .*point",
        ),
        ("p.mrk.json", "{", "markups"),
        ("p.mrk.json", "[]", "markups"),
        ("p.mrk.json", '{"markups": [{}]}', "markups"),
        ("p.mrk.json", '{"markups": []}', "LPS or RAS"),
        ("p.mrk.json", markups("IJK", 1), "IJK"),
        ("p.mrk.json", markups("LPS", 1, coordinateUnits="cm"), "cm"),
        ("p.mrk.json", markups("LPS", 1).replace("[1.5, -2.25, 0.001]", "null"), "'left' has no"),
        ("p.mrk.json", markups("LPS", 1).replace("1.5", "NaN"), "point left"),
        ("p.mrk.json", markups("LPS", 1).replace('"defined"', '"undefined"'), "no points in it"),
    ],
)
def test_mistakes_in_landmarks_are_reported_with_their_place(name, text, words, tmp_path):
    path = written(tmp_path, text, name)
    with pytest.raises(ValueError, match=words) as caught:
        read_landmarks(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_no_text_is_no_table(tmp_path):
    (tmp_path / "p.csv").write_bytes(b"x,y\n\xff\xfe,2\n")
    for read in (read_landmarks, read_case_table):
        with pytest.raises(ValueError, match="UTF-8"):
            read(tmp_path / "p.csv")
        with pytest.raises(ValueError, match="no such file"):
            read(tmp_path / "missing.csv")


@pytest.fixture
def files(tmp_path):
    """A folder with the files that the tables below name."""
    (tmp_path / "images").mkdir()
    for name in ("a.nii.gz", "b.nii.gz", "mask.nii.gz", "a.csv", "b.csv", "t.h5"):
        (tmp_path / "images" / name).write_text("")
    return tmp_path


def test_a_case_table_gives_names_and_paths_from_its_own_folder(files):
    absolute = files / "images" / "b.nii.gz"
    path = written(
        files,
        "name,subject,fixed,moving,fixed_mask,fixed_points,moving_points,initial\n"
        "case 1,S1,images/a.nii.gz,images/b.nii.gz,images/mask.nii.gz,,,\n"
        f"case-2,,images,{absolute},,images/a.csv,images/b.csv,images/t.h5\n",
    )
    one, two = read_case_table(path)
    image = files / "images"
    assert one == CaseRow(
        "case 1", image / "a.nii.gz", image / "b.nii.gz", "S1", fixed_mask=image / "mask.nii.gz"
    )
    assert two.subject == "" and two.fixed == image and two.moving == absolute
    assert (two.fixed_points, two.moving_points) == (image / "a.csv", image / "b.csv")
    assert two.initial == image / "t.h5" and two.fixed_mask is None


def test_every_column_of_a_case_is_read(files):
    columns = [f.name for f in fields(CaseRow) if f.name != "more"]
    values = dict.fromkeys(columns, "images/a.nii.gz") | {"name": "n", "subject": "s"}
    path = written(files, "\t".join(values) + "\n" + "\t".join(values.values()) + "\n", "c.tsv")
    (case,) = read_case_table(path)
    expected = {key: files / value for key, value in values.items()} | {"name": "n", "subject": "s"}
    assert {name: getattr(case, name) for name in columns} == expected and case.more == {}


def test_columns_of_a_table_that_are_not_ours_are_kept_as_text(files):
    text = f"name,Age,fixed,moving,sex,subject_id\n{ROW.replace(',', ',64,', 1)},F,\n"
    (case,) = read_case_table(written(files, text))
    assert case.more == {"age": "64", "sex": "F", "subject_id": ""}
    assert absolute(case).more == case.more and case.subject == ""


@pytest.mark.parametrize(
    "name", ["fixed_mark", "moving_label", "fixed_point", "mask", "landmark", "inital", "subjet"]
)
def test_a_misspelled_column_is_refused(name, files):
    with pytest.raises(ValueError, match=f"column '{name}' looks like a misspelled one; known are"):
        read_case_table(written(files, f"name,fixed,moving,{name}\n{ROW},x\n"))


ROW = "one,images/a.nii.gz,images/b.nii.gz"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("name,fixed,moving\n", "no rows"),
        (f"name,fixed,moving,\n{ROW},\n", "column 4 has no name"),
        ("name,fixed\na,images/a.nii.gz\n", "columns moving are missing"),
        (f"name,fixed,moving,fixed\n{ROW},x\n", "'fixed' occurs twice"),
        (f"name,fixed,moving\n{ROW}\n{ROW},x\n", "line 3: 3 cells expected, found 4"),
        (f"name,fixed,moving\n{ROW}\nTwo{ROW[3:]}\nONE{ROW[3:]}\n", "line 4: .*'ONE'.* line 2"),
        (f"name,fixed,moving\n../x{ROW[3:]}\n", "line 2: .*cannot name a folder"),
        (f"name,fixed,moving\n{ROW[3:]}\n", "line 2: .*cannot name a folder"),
        (f"name,fixed,moving\n.hidden{ROW[3:]}\n", "line 2: .*cannot name a folder"),
        (f"name,fixed,moving\na/b{ROW[3:]}\n", "line 2: .*cannot name a folder"),
        (f"name,fixed,moving\ndot.{ROW[3:]}\n", "line 2: .*cannot name a folder"),
        ("name,fixed,moving\none,,images/b.nii.gz\n", "line 2: the cell fixed is empty"),
        ("name,fixed,moving\none,c.nii,images/b.nii.gz\n", "line 2: fixed does not exist: .*c.nii"),
        (
            f"name,fixed,moving,fixed_landmarks\n{ROW},images/a.csv\n",
            "line 2: fixed_landmarks and moving_landmarks belong together",
        ),
    ],
)
def test_mistakes_in_case_tables_are_reported_with_their_line(text, words, files):
    path = written(files, text)
    with pytest.raises(ValueError, match=f"(?s){words}") as caught:
        read_case_table(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_all_that_is_wrong_with_a_case_table_is_reported_at_once(files):
    rows = "".join(f"case{i},missing{i}.nii,images/a.nii.gz\n" for i in range(30))
    with pytest.raises(ValueError) as caught:
        read_case_table(written(files, f"name,fixed,moving\n{rows}"))
    said = str(caught.value)
    assert "line 2: fixed does not exist" in said and "missing19.nii" in said
    assert "missing20.nii" not in said and said.endswith("... and 10 more")


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "t.txt"
    with whole_file(path) as partial:
        partial.write_text("first")
        assert not path.exists() and partial.suffix == ".txt"
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="make it first"), whole_file(tmp_path / "no" / "t.txt"):
        pass
