"""Registration methods, one file or package each; their names stand in ``registry.METHODS``."""
