"""The shell of every page: one self-contained HTML file, its style, its script and their policy."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent


def rendered(template: str, *, title: str, script: str | None = None, **context: Any) -> str:
    """A page from a template of this folder that extends page.html.j2.

    script: the name of a file here that the page runs; it runs no other, and loads nothing.
    """
    code = "" if script is None else (_FOLDER / script).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        title=title,
        style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
        script=Markup(code),
        script_hash=f"sha256-{digest}",
        **context,
    )
