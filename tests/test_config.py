"""Methods and their TOML tables are two spellings of the same thing."""

import hashlib
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint

import pytest

from hybridreg.assessment import assess
from hybridreg.config import (
    describe_method,
    files_of,
    load_method,
    methods,
    presets,
    with_settings,
)
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.registry import PAIR_TYPES, REGISTRIES, Registry, load_pair_type
from hybridreg.similarity import LNCC, MI
from hybridreg.views import make_views


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


def test_the_parameter_files_of_nested_methods_are_reported_by_their_hashes(tmp_path):
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
        ({"name": "chain"}, "needs: stages$"),
        ({"name": "masked"}, "the method 'masked' needs: method$"),
        ({"name": "chain", "stages": [3]}, "chain.stages"),
        ({"name": "chain", "stages": [{"name": "lncc"}]}, "no method 'lncc'"),
        ({"name": "lddmm", "similarity": "lnnc"}, "no measure 'lnnc'; did you mean 'lncc'"),
        ({"name": "lddmm", "similarity": {"name": "lncc", "radios": 3}}, "did you mean 'radius'"),
        ({"name": "lddmm", "similarity": {"name": "lncc", "radius": "x"}}, "lncc.radius"),
        ({"name": "lddmm", "similarity": 3}, "lddmm.similarity"),
    ],
)
def test_mistakes_are_named_with_what_would_be_right(table, says):
    with pytest.raises(ValueError, match=says):
        load_method(table)


def test_files_that_are_missing_or_no_toml_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*none.toml"):
        load_method(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ValueError, match="not valid TOML"):
        load_method(tmp_path / "bad.toml")


def test_every_method_has_a_line_of_help():
    assert {"elastix", "chain"} <= set(methods())
    assert all(methods().values())


def test_a_measure_brings_its_own_parameters():
    table = {"name": "lddmm", "similarity": {"name": "lncc", "radius": 3}}
    assert load_method(table).similarity == LNCC(3)
    assert load_method({"name": "lddmm", "similarity": "mi"}).similarity == MI()
    assert describe_method(load_method(table))["similarity"]["radius"] == 3


def test_wrap_is_short_for_nested_methods_outermost_first():
    inner = {"name": "elastix", "parameter_files": ["rigid.txt"]}
    short = {**inner, "wrap": [{"name": "scaled", "rule": "bone"}, "unfolded"]}
    nested = {"name": "scaled", "rule": "bone", "method": {"name": "unfolded", "method": inner}}
    assert load_method(short) == load_method(nested)
    chain = {"name": "chain", "stages": [short, inner]}
    assert load_method(chain).stages == (load_method(nested), load_method(inner))
    assert load_method({**inner, "wrap": []}) == load_method(inner)


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        ("unfolded", "wrap lists the steps around a method"),
        (["unfoldd"], "no method 'unfoldd'; did you mean 'unfolded'"),
        (["lddmm"], "lddmm in wrap is no step around a method"),
        ([{"name": "unfolded", "method": "lddmm"}], "needs no method"),
        ([{"rule": "bone"}], "a wrapper in wrap needs a name"),
    ],
)
def test_what_cannot_be_wrapped_around_a_method_is_refused(wrap, says):
    with pytest.raises(ValueError, match=says):
        load_method({"name": "elastix", "parameter_files": ["rigid.txt"], "wrap": wrap})


@dataclass(frozen=True)
class Mine:
    """A method that stands in no table."""

    transform: object

    def register(self, pair, initial=None):
        return RegistrationResult(self.transform)


class Bare:
    def register(self, pair, initial=None):
        return RegistrationResult(initial)


def test_a_method_in_no_table_is_described_by_its_place():
    assert describe_method(Mine(Bare())) == {
        "name": f"{__name__}:Mine",
        "transform": f"{__name__}:Bare",
    }
    chain = type(load_method("brain-lddmm"))((Bare(), load_method("rigid")))
    stages = describe_method(with_settings(chain, seed=3))["stages"]
    assert stages[0] == {"name": f"{__name__}:Bare"} and stages[1]["method"]["seed"] == 3
    with pytest.raises(ValueError, match="there is no method"):
        load_method(describe_method(Bare()))


def test_a_plugin_that_does_not_import_costs_only_itself(monkeypatch):
    points = [
        EntryPoint("broken", "no_such_module:Method", "hybridreg.methods"),
        EntryPoint("mine", f"{__name__}:Mine", "hybridreg.methods"),
        EntryPoint("elastix", "no_such_module:Elastix", "hybridreg.methods"),  # ours comes first
    ]
    monkeypatch.setattr(
        "hybridreg.registry.entry_points",
        lambda group: [point for point in points if point.group == group],
    )
    assert load_method(describe_method(load_method("rigid"))) == load_method("rigid")
    assert load_method({"name": "mine", "transform": 3}) == Mine(3)
    assert describe_method(Mine(3))["name"] == "mine"
    assert "cannot be imported: ModuleNotFoundError" in methods()["broken"]
    with pytest.raises(ValueError, match="'broken' of .* cannot be imported: .*no_such_module"):
        load_method({"name": "broken"})


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda table: table.kind)
def test_every_name_of_a_table_loads_and_is_found_again(registry: Registry):
    assert len(registry) > 1
    for name in registry.own:
        found = registry[name]
        assert registry[registry.name_of(found)] is found
        assert registry.help(name)


@pytest.mark.parametrize("name", PAIR_TYPES)
def test_every_type_of_pairs_is_assessed_and_shown_by_the_modules_of_its_table(name):
    module, _, attribute = name.partition(":")
    kind = getattr(import_module(module), attribute)
    load_pair_type(type("Derived", (kind,), {}))
    own = {function.dispatch(kind).__module__ for function in (assess, make_views)}
    assert own == set(PAIR_TYPES[name])
