"""``hybridreg info``, ``methods`` and ``report``: inspecting files, methods and results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridreg.cli import options
from hybridreg.cli.dicom import list_dicom
from hybridreg.cli.refusals import check_files
from hybridreg.cli.session import session


def info(
    file: Annotated[
        Path,
        typer.Argument(
            help="Image, DICOM folder, transform, method TOML, weights or output folder."
        ),
    ],
    json: options.Json = False,
):
    """Describe a file: geometry of an image, kind and size of a transform, fields of a method."""
    with session(as_json=json) as current:
        check_files(file)
        if _is_dicom(file):
            list_dicom(current, file)
            return
        current.answer = _about(file)
        current.show(str(file), [(key, _text(value)) for key, value in current.answer.items()])


def methods(json: options.Json = False):
    """List presets, methods (for `hybridreg register --method`), measures, rules,
    tasks and weights.
    """
    with session(as_json=json) as current:
        from hybridreg.config import presets
        from hybridreg.io.checkpoints import packaged_weights
        from hybridreg.registry import REGISTRIES

        current.answer = {"presets": presets()} | {
            f"{table.kind}s": {name: table.help(name) for name in table} for table in REGISTRIES
        }
        current.answer["weights"] = {name: _weights(name) for name in packaged_weights()}
        for kind, names in current.answer.items():
            current.show(kind, list(names.items()))
            current.say()


def report(
    folder: Annotated[Path, typer.Argument(help="Output folder of register or compare.")],
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Build report.html again from an output folder."""
    with session(as_json=json, quiet=quiet) as current:
        from hybridreg.io.output import COMPARISON, RESULT

        if (folder / COMPARISON).is_file():
            from hybridreg.comparison.results import read_comparison, write_page

            path = write_page(read_comparison(folder))
        elif (folder / RESULT).is_file():
            from hybridreg.report import write_report

            path = write_report(folder)
        else:
            raise ValueError(
                f"{folder} has no {RESULT} and no {COMPARISON}: is it a folder that register or "
                "compare wrote?"
            )
        current.answer = {"report": str(path)}
        current.say(f"wrote {path}")


def _is_dicom(file: Path) -> bool:
    from hybridreg.io.output import RESULT

    if file.suffix in (".toml", ".safetensors") or (file / RESULT).is_file():
        return False
    from hybridreg.io.dicom import is_dicom

    return is_dicom(file)


def _about(file: Path) -> dict:
    from hybridreg.io.output import RESULT

    if (file / RESULT).is_file():
        import json

        result = json.loads((file / RESULT).read_text(encoding="utf-8"))
        return {key: value for key, value in result.items() if key != "trace"}
    if file.suffix == ".toml":
        from hybridreg.config import describe_method, load_method

        return describe_method(load_method(file))
    if file.suffix == ".safetensors":
        from dataclasses import asdict

        from hybridreg.io.checkpoints import read_card

        return asdict(read_card(file))
    from hybridreg.io import images, transforms

    try:
        return images.describe(file)
    except ValueError as error:
        try:
            return transforms.describe(file)
        except ValueError as other:
            raise ValueError(f"as an image: {error}; as a transform: {other}") from None


def _weights(name: str) -> str:
    """What packaged weights are, and what they may be used for."""
    from hybridreg.io.checkpoints import provenance

    about = provenance(name)
    return f"{about['architecture']}; {about['weights_licence']}; trained on {about['data']}"


def _text(value) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return "; ".join(f"{key} {_text(item)}" for key, item in value.items())
    return str(value)
