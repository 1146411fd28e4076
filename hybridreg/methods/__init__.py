"""Registration methods, one file or package each; their names are in ``registry.METHODS``."""
