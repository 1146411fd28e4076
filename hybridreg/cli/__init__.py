"""The command line: the only package that prints or chooses a device."""

from __future__ import annotations


def main():
    """Entry point of the ``hybridreg`` command."""
    from hybridreg.cli.app import app

    app(prog_name="hybridreg")
