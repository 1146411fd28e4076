"""The command line: the only place that prints, and that picks a device."""

from __future__ import annotations


def main():
    """Entry point of the ``hybridreg`` command."""
    from hybridreg.cli.app import app

    app(prog_name="hybridreg")
