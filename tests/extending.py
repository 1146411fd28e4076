"""The package that docs/extending.md describes, as if it were installed."""

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


class Block(NamedTuple):
    """One block of code; file: the name in its first line, empty for what is only run."""

    language: str
    file: str
    code: str


def blocks() -> list[Block]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    named = [(re.match(r"# (\S+\.\w+)\n", code), language, code) for language, code in found]
    return [Block(language, name[1] if name else "", code) for name, language, code in named]


def install(folder: Path, **more: str):
    """Writes the page's files and what importlib.metadata reads; more:
    modules of methods besides.
    """
    for block in blocks():
        if block.file:
            path = folder / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["entry-points"]
    groups["hybridreg.methods"] |= more
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(about)
    lines = [
        f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in group.items())
        for g, group in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
