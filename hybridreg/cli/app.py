"""All subcommands. Their modules import nothing heavy until they are called."""

from __future__ import annotations

import typer

from hybridreg.cli import (
    apply,
    compare,
    demo,
    dicom,
    evaluate,
    fuse,
    inspect,
    project,
    register,
    targets,
    train,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Registers and fuses medical images. Research software, not a medical device.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done but the verdict is fail, "
    "4 batch partly failed.",
)
for command in (
    demo.demo,
    register.register,
    apply.apply,
    fuse.fuse,
    project.project,
    evaluate.evaluate,
    compare.compare,
    targets.targets,
    train.train,
    inspect.info,
    inspect.methods,
    inspect.report,
    dicom.dicom,
):
    app.command()(command)
