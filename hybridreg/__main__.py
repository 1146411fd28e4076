"""``python -m hybridreg``."""

from hybridreg.cli import main

main()
