"""Training targets for networks, computed by classical registration for any number of pairs.

Every target describes one map T, fixed -> moving, in two parts: T(x) = affine(x + u(x)). A network
receives the fixed image and the moving image through the affine, and learns u or its momentum.
``io.target_store`` describes what is stored, and ``target_patches`` reads it for training.
"""

from hybridreg.targets.kinds import KINDS, load_kind
from hybridreg.targets.making import Made, Recipe, make_targets
from hybridreg.targets.target import Kind, Target

__all__ = ["KINDS", "Kind", "Made", "Recipe", "Target", "load_kind", "make_targets"]
