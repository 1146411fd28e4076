"""Every option that messages and documents name exists, in the command that shows them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from test_layers import ROOT, imports, module_name, sources

from hybridreg.cli.app import app

# Modules below the command line whose words only these commands show; others name the command
# together with the option, as `hybridreg register --initial centers`.
SHOWN_BY = {
    "cli.refusals": ("apply", "dicom", "fuse"),  # those that write one file
    "fusion_files": ("fuse",),
    **dict.fromkeys(("io.dicom", "io.dicom_series", "io.dicom_volumes"), ("dicom",)),  # as_file
    "io.output": ("register", "demo"),
    "quality.alternatives": ("register",),
    "quality.verdict": ("register",),
    "training.folder": ("train",),
}
FOREIGN = ("gdcmconv", "reg_transform")  # whose options are their own
OTHER_TOOLS = "methods.peers.scripts"
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
COMMAND = re.compile(r"hybridreg ([a-z][a-z-]*)")

COMMANDS = typer.main.get_command(app).commands
OPTIONS = {
    name: {"-h", "--help"}.union(*((*p.opts, *p.secondary_opts) for p in command.params))
    for name, command in COMMANDS.items()
}


def shown_by() -> dict[str, set[str]]:
    """Which commands show the strings of a module: of their own, or of one that they import."""
    shown: dict[str, set[str]] = {module: set(names) for module, names in SHOWN_BY.items()}
    for name, command in COMMANDS.items():
        module = command.callback.__module__.removeprefix("hybridreg.")
        shown.setdefault(module, set()).add(name)
    own, parts = dict(shown), [p for p in sources() if module_name(p).startswith("cli.")]
    for module in {module_name(path) for path in parts} - set(own):
        users = {module_name(p) for p in parts if f"hybridreg.{module}" in imports(p)}
        shown[module] = set().union(*(own.get(user, set()) for user in users))
    return shown


def texts(path: Path) -> Iterator[str]:
    """The strings of a module, f-strings with their holes left out; of docstrings, only helps."""
    tree, silent = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=parts):
                silent |= {id(part) for part in parts}
                yield "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in parts)
            case ast.Module(body=body) | ast.ClassDef(body=body) | ast.FunctionDef(body=body):
                is_help = "cli" in path.parts and isinstance(node, ast.FunctionDef)
                if isinstance(body[0], ast.Expr) and not is_help:
                    silent.add(id(body[0].value))
            case ast.Constant(value=str(text)) if id(node) not in silent:
                yield text


def unknown_options(text: str, commands: set[str]) -> list[str]:
    """Options in a text that some command it may stand for lacks."""
    wrong = []
    for number, span in enumerate(re.split(r"(?<!`)`(?!`)", text)):
        named = COMMAND.search(span) if number % 2 else None
        if any(tool in span for tool in FOREIGN):
            continue
        for option in OPTION.findall(span):
            meant = [named[1]] if named else commands
            if not meant or not all(option in OPTIONS.get(name, ()) for name in meant):
                wrong.append(option)
    return wrong


def spoken(text: str) -> bool:
    """False for the bare names in which options are declared, such as "--out"."""
    return not re.fullmatch(r"-{1,2}[a-z-]*(/--[a-z-]*)?", text) and bool(re.search("[ `]", text))


def test_every_option_that_a_message_names_is_one_of_the_commands_that_show_it():
    shown = shown_by()
    wrong = [
        (module_name(path), option, text)
        for path in sources()
        if not module_name(path).startswith(OTHER_TOOLS)
        for text in filter(spoken, texts(path))
        for option in unknown_options(text, shown.get(module_name(path), set()))
    ]
    assert not wrong


def test_options_of_other_commands_and_unknown_ones_are_found():
    assert unknown_options("give its number (series=, --series)", set()) == ["--series"]
    assert unknown_options("give its number with --series", {"register"}) == ["--series"]
    assert not unknown_options("`hybridreg dicom --series 3` makes it a file", {"register"})
    assert unknown_options("`hybridreg apply --series 3`", {"dicom"}) == ["--series"]


def documents() -> list[Path]:
    return [ROOT.parent / "README.md", *sorted(ROOT.parent.glob("examples/**/*.md"))]


@pytest.mark.skipif(not documents()[0].is_file(), reason="the documents lie in the repository")
def test_every_command_and_option_in_the_documents_exists():
    known, seen = set().union(*OPTIONS.values()), 0
    for document in documents():
        for line in document.read_text(encoding="utf-8").splitlines():
            spans = re.findall(r"`([^`]+)`", line) + [line] * line.startswith("hybridreg ")
            for span in spans:
                named = COMMAND.match(span)
                assert not named or named[1] in OPTIONS, line
                if named or (span.startswith("--") and document.name == "README.md"):
                    found = OPTION.findall(span)
                    assert set(found) <= (OPTIONS[named[1]] if named else known), line
                    seen += len(found)
    assert seen > 50
