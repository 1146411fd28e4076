"""Methods and their TOML tables are two spellings of the same thing."""

import hashlib

import pytest

from hybridreg.config import (
    describe_method,
    files_of,
    load_method,
    methods,
    presets,
    with_settings,
)
from hybridreg.methods.base import RegistrationMethod


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_loads_and_its_description_builds_it_again(name):
    method = load_method(name)
    assert isinstance(method, RegistrationMethod)
    assert load_method(describe_method(method)) == method
    assert presets()[name]


def test_nested_methods_come_from_tables_with_a_name(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(
        'name = "chain"\n'
        '[[stages]]\nname = "elastix"\nparameter_files = ["rigid.txt"]\n'
        '[[stages]]\nname = "elastix"\nparameter_files = ["bspline.txt"]\nseed = 4\n'
    )
    chain = load_method(path)
    assert [stage.seed for stage in chain.stages] == [0, 4]
    assert load_method(describe_method(chain)) == chain


def test_the_parameter_files_of_nested_methods_are_told_by_their_hashes(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text('(Transform "EulerTransform")')
    stages = [{"name": "elastix", "parameter_files": ["rigid.txt", str(path)]}]
    described = describe_method(load_method({"name": "chain", "stages": stages}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert files_of({"method": described, "seed": 0}) == {"files": {str(path): digest}}
    assert files_of({"method": describe_method(load_method("rigid"))}) == {}


def test_settings_reach_nested_methods_and_leave_the_original_alone():
    chain = load_method(
        {"name": "chain", "stages": [{"name": "elastix", "parameter_files": ["rigid.txt"]}] * 2}
    )
    changed = with_settings(chain, seed=7, threads=None, device="cuda")
    assert [stage.seed for stage in changed.stages] == [7, 7]
    assert [stage.seed for stage in chain.stages] == [0, 0]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("rigit", "did you mean 'rigid'"),
        ({"name": "elastics"}, "did you mean 'elastix'"),
        ({"seed": 1}, "needs a name"),
        ({"name": "elastix", "parameter_file": ["a"]}, "did you mean 'parameter_files'"),
        ({"name": "elastix", "parameter_files": 3}, "elastix.parameter_files"),
        ({"name": "elastix", "parameter_files": ["a"], "seed": "x"}, "elastix.seed"),
        ({"name": "chain"}, "stages"),
        ({"name": "chain", "stages": [3]}, "chain.stages"),
    ],
)
def test_mistakes_are_named_with_what_would_be_right(table, says):
    with pytest.raises(ValueError, match=says):
        load_method(table)


def test_files_that_are_missing_or_no_toml_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no method file"):
        load_method(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ValueError, match="not valid TOML"):
        load_method(tmp_path / "bad.toml")


def test_every_method_has_a_line_of_help():
    assert {"elastix", "chain"} <= set(methods())
    assert all(methods().values())
