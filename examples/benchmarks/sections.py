"""The file of results beside a script: tables in Markdown, each section written by itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def line(cells: Iterable) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table(names: Iterable[str], rows: Iterable[Iterable]) -> str:
    names = list(names)
    return "\n".join([line(names), "|---" * len(names) + "|", *map(line, rows)])


def write_section(path: Path, title: str, text: str, *, head: str):
    """Replaces the section ``## title`` of a file, or adds it at the end; the others stay.

    head: what stands above all sections, the first line the title of the whole.
    """
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = dict(section.split("\n", 1) for section in before.split("\n## ")[1:])
    parts[title] = f"\n{text.strip()}\n"
    body = "".join(f"\n## {name}\n{part}" for name, part in parts.items())
    path.write_text(f"# {head.strip()}\n{body}", encoding="utf-8")
