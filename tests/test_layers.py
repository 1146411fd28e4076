"""Imports go one way: the table of layers in ARCHITECTURE.md, checked on the source."""

import ast
from pathlib import Path

import hybridreg

ROOT = Path(hybridreg.__file__).parent

# A module may import those of lower layers and, within its layer, those further left.
LAYERS = [
    ["progress", "parameter_folder", "choices", "registry", "child_process", "methods"],
    ["geometry", "kernels"],
    ["images", "radiographs", "projection_pair", "bsplines", "transforms", "geodesics", "warping"]
    + ["unfolding", "decomposition", "poses", "cases", "checks"],
    ["lattice", "similarity", "gradient_correlation", "shooting", "momentum", "drr", "exposure"]
    + ["io", "phantoms", "preprocessing", "initialization", "intensity"]
    + ["descriptors", "case_files", "network_inputs", "training_domain"]
    + ["target_patches", "image_pairs", "pyramids", "composed_steps"]
    + ["fusion", "fusion_scores", "fusion_files"],
    ["methods.base", "methods.*"],
    ["case_log", "records", "evaluation", "quality", "assessment", "projection_assessment"]
    + ["config", "training", "views", "projection_views", "cluster"],
    ["report", "outcome", "pipeline", "batch", "comparison", "targets", "testing"],
    ["cli"],
]
ONLY_IN = {
    "itk": {"methods.elastix.worker", "methods.peers.scripts"},
    "numba": {"kernels.loops"},
    "matplotlib": {"comparison.plots"},
    "picsl_greedy": {"methods.peers.scripts"},
    "ants": {"methods.peers.scripts"},
    "fireants": {"methods.peers.scripts"},
    "voxelmorph": {"methods.peers.scripts"},
    "unigradicon": {"methods.peers.scripts"},
    "convexAdam": {"methods.peers.scripts"},
    "SimpleITK": {"io", "methods.peers.scripts"},
    "nibabel": {"io"},
    "pydicom": {"io.dicom"},
    "lightning": {"training"},
    "tensorboard": {"training"},
    "safetensors": {"io.checkpoints"},
    "zarr": {"io.target_store"},
    "dask": {"cluster"},
    "distributed": {"cluster"},
    "dask_jobqueue": {"cluster"},
    "cloudpickle": {"cluster"},
    "psutil": {"cluster"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def owner(module: str) -> str:
    """The file, or for a package of one idea the package, that a module belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2] if parts[0] in ("io", "methods") else parts[:1])


def rank(module: str) -> tuple[int, int]:
    parts = module.split(".")
    names = [".".join(parts[: n + 1]) for n in range(len(parts))][::-1]
    if parts[0] == "methods" and len(parts) > 1:
        names = ["methods.base"] if parts[1] == "base" else ["methods.*"]
    for level, layer in enumerate(LAYERS):
        for position, known in enumerate(layer):
            if known in names:
                return level, position
    raise AssertionError(f"{module} stands in no layer: add it to LAYERS and ARCHITECTURE.md")


def sources() -> list[Path]:
    found = [path for path in ROOT.rglob("*.py") if module_name(path) not in ("", "__main__")]
    assert len(found) > 20
    return found


def modules() -> set[str]:
    return {module_name(path) for path in ROOT.rglob("*.py")}


def test_no_module_imports_from_a_higher_layer():
    known = modules()
    for path in sources():
        importer = module_name(path)
        for name in imports(path):
            imported = name.removeprefix("hybridreg.")
            if not name.startswith("hybridreg.") or imported not in known:
                continue
            if owner(importer) == owner(imported):
                continue
            assert rank(imported) <= rank(importer), f"{importer} imports {imported}"


def test_no_method_enters_the_room_of_another():
    for path in sources():
        importer = module_name(path)
        if not importer.startswith("methods.") or importer == "methods.base":
            continue
        for name in imports(path):
            if name.startswith("hybridreg.methods."):
                target = owner(name.removeprefix("hybridreg."))
                assert target in (owner(importer), "methods.base"), f"{importer} imports {name}"


def test_foreign_libraries_stay_where_they_belong():
    for path in sources():
        importer = module_name(path)
        for name in imports(path):
            allowed = ONLY_IN.get(name.split(".")[0])
            fits = allowed is None or any(importer.startswith(place) for place in allowed)
            assert fits, f"{importer} imports {name}"


def test_only_the_command_line_prints():
    for path in sources():
        if module_name(path).startswith("cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and getattr(node.func, "id", None)
            assert called != "print", f"{module_name(path)} prints in line {node.lineno}"
