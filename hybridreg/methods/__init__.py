"""The table of registration methods: a name, where its class lives, and one line of help.

Nothing is imported here: a method's libraries load when it is first used. Other packages add
methods through the entry point group ``hybridreg.methods``.
"""

METHODS = {
    "elastix": (
        "hybridreg.methods.elastix:Elastix",
        "any elastix parameter files: rigid, affine, B-spline, multi-channel",
    ),
    "lddmm": (
        "hybridreg.methods.lddmm:Lddmm",
        "geodesic shooting from the moving to the fixed image (LDDMM), by its momentum",
    ),
    "chain": (
        "hybridreg.methods.combine:Chain",
        "stages in turn, each started from the last one's transform",
    ),
}
