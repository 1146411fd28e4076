"""The hash of an input covers all files that it is read from."""

import hashlib

import pytest
import SimpleITK as sitk
import torch

from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.files import sha256_of, sha256_of_all
from hybridreg.io.images import read_image, to_sitk


def image_file(folder, name: str):
    sitk.WriteImage(to_sitk(Image(torch.rand(5, 6, 7), Grid((5, 6, 7)))), str(folder / name))
    return folder / name


@pytest.mark.parametrize(
    ("name", "voxels"), [("a.mhd", "a.raw"), ("a.nhdr", "a.raw"), ("a.hdr", "a.img")]
)
def test_voxels_in_a_file_of_their_own_belong_to_the_hash(name, voxels, tmp_path):
    path = image_file(tmp_path, name)
    before = sha256_of(path)
    (tmp_path / "other.raw").write_bytes(b"another file")
    assert sha256_of(path) == before
    content = bytearray((tmp_path / voxels).read_bytes())
    content[-1] ^= 1
    (tmp_path / voxels).write_bytes(content)
    read_image(path)
    assert sha256_of(path) != before
    (tmp_path / voxels).unlink()
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "line",
    [
        '(InitialTransformParametersFileName "{}")',
        '(InitialTransformParameterFileName "/elsewhere/{}")',
        'InitialTransformParameterFileName = "{}"',
    ],
)
def test_the_transforms_that_one_of_elastix_starts_from_belong_to_its_hash(line, tmp_path):
    chain = [tmp_path / f"T.{i}.{'txt' if line[0] == '(' else 'toml'}" for i in range(3)]
    for one, start in zip(chain, [*chain[1:], chain[0]], strict=True):  # a circle does no harm
        one.write_text(f'(Transform "Any")\n{line.format(start.name)}\n')
    before = sha256_of(chain[0])
    chain[2].write_text("(Transform)\n")
    assert sha256_of(chain[0]) != before


def test_a_single_file_has_the_hash_of_its_bytes_and_a_folder_that_of_all_its_files(tmp_path):
    plain = [image_file(tmp_path, name) for name in ("a.nii.gz", "a.mha", "a.nrrd")]
    for path in plain:
        assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256_of_all([*plain, *plain]) == {path: sha256_of(path) for path in plain}
    (tmp_path / "series" / "deep").mkdir(parents=True)
    (tmp_path / "series" / "deep" / "1.dcm").write_bytes(b"one")
    before = sha256_of(tmp_path / "series")
    (tmp_path / "series" / "deep" / "1.dcm").write_bytes(b"two")
    assert sha256_of(tmp_path / "series") != before
