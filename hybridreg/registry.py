"""One table for each protocol: names of methods, measures, descriptors, fusion rules and training tasks.

Nothing is imported before a name is looked up. Other packages add to a table through the entry
point group of its name, such as ``hybridreg.methods``; names of hybridreg take precedence.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any


class Registry(Mapping[str, Any]):
    """The implementations of one protocol by name, imported on first use.

    kind: what one of them is called in messages, such as "method". group: the entry point group of
    other packages. own: name -> ("module:attribute", one line of help).
    """

    def __init__(self, kind: str, group: str, own: Mapping[str, tuple[str, str]]):
        self.kind, self.group, self.own = kind, group, own

    def __getitem__(self, name: str) -> Any:
        """The implementation itself.

        KeyError for an unknown name (see ``find``); ValueError for one of another package
        that cannot be imported, with the reason.
        """
        if name in self.own:
            return _loaded(self.own[name][0])
        point = self._plugins()[name]
        try:
            return point.load()
        except Exception as error:  # a plug-in may raise anything at import
            raise ValueError(f"the {self.kind} {name!r} {_failed(point, error)}") from error

    def __iter__(self) -> Iterator[str]:
        return iter([*self.own, *(name for name in self._plugins() if name not in self.own)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self._plugins()

    def find(self, name: str, *, also: Iterable[str] = ()) -> Any:
        """As ``table[name]``, with a ValueError that lists the valid names, and ``also`` others."""
        if name not in self:
            raise ValueError(unknown_name(f"there is no {self.kind}", name, [*also, *self]))
        return self[name]

    def help(self, name: str) -> str:
        """One line of help on a name; for a plug-in, its package, or why it cannot be loaded."""
        if name in self.own:
            return self.own[name][1]
        point = self._plugins()[name]
        try:
            point.load()
        except Exception as error:
            return _failed(point, error)
        return f"from {_package(point)}"

    def name_of(self, implementation: Any) -> str:
        """Its name in the table, or "module:qualname" if it is not in it. Imports nothing."""
        for name in self:
            target = self.own[name][0] if name in self.own else self._plugins()[name].value
            module, _, attribute = target.partition(":")
            if getattr(sys.modules.get(module), attribute, None) is implementation:
                return name
        return f"{implementation.__module__}:{implementation.__qualname__}"

    def _plugins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}


def unknown_name(what: str, found: str, valid: Iterable[str]) -> str:
    """A message that names what was found, the nearest valid name and all valid ones."""
    valid = list(valid)
    near = difflib.get_close_matches(found, valid, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{what} {found!r}{hint}; valid are: {', '.join(valid)}"


def _loaded(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _failed(point: EntryPoint, error: Exception) -> str:
    return f"of {_package(point)} cannot be imported: {type(error).__name__}: {error}"


METHODS = Registry(
    "method",
    "hybridreg.methods",
    {
        "elastix": (
            "hybridreg.methods.elastix.method:Elastix",
            "any elastix parameter files: rigid, affine, B-spline, multi-channel",
        ),
        "lddmm": (
            "hybridreg.methods.lddmm.method:Lddmm",
            "geodesic shooting from the moving to the fixed image (LDDMM), by its momentum",
        ),
        "instance": (
            "hybridreg.methods.instance.method:Instance",
            "composed small steps, coarse to fine: fast, one-to-one, any measure and channels",
        ),
        "quicksilver": (
            "hybridreg.methods.quicksilver.method:Quicksilver",
            "a geodesic whose momentum a trained network predicts, without optimization",
        ),
        "demons": (
            "hybridreg.methods.demons:Demons",
            "diffeomorphic demons: squared differences of intensities or descriptors",
        ),
        "hammer": (
            "hybridreg.methods.hammer.method:Hammer",
            "critical points matched by their intensities or descriptors; the report shows them",
        ),
        "linear": (
            "hybridreg.methods.linear.method:Linear",
            "rigid, similarity or affine in a second, with a search of rotations",
        ),
        "dirnet": (
            "hybridreg.methods.dirnet.method:Dirnet",
            "a trained network that predicts B-splines (DIRNet, DLIR), in a fraction of a second",
        ),
        "projection": (
            "hybridreg.methods.projection:Projection",
            "the pose of a CT in radiographs, by comparison with its projections",
        ),
        "pehl": (
            "hybridreg.methods.pehl.method:Pehl",
            "the pose of an object in a radiograph, by networks trained on its CT (PEHL)",
        ),
        "chain": (
            "hybridreg.methods.combine:Chain",
            "stages in sequence, each initialized by the transform of the one before",
        ),
        "symmetric": (
            "hybridreg.methods.symmetric:Symmetric",
            "stages in both directions, and the map halfway between the two that are found",
        ),
        "masked": (
            "hybridreg.methods.combine:Masked",
            "a method that compares inside the fixed image's foreground alone",
        ),
        "clipped": (
            "hybridreg.methods.combine:Clipped",
            "a method on intensities without outliers, or clipped at percentiles",
        ),
        "on-features": (
            "hybridreg.methods.combine:OnFeatures",
            "a method on descriptors of both images in place of their intensities",
        ),
        "unfolded": (
            "hybridreg.methods.combine:Unfolded",
            "a method with folds removed from its B-splines",
        ),
        "scaled": (
            "hybridreg.methods.combine:Scaled",
            "a method on intensities scaled to [0, 1] by a named rule",
        ),
        "identity": (
            "hybridreg.methods.given:Identity",
            "no registration: the baseline of a comparison",
        ),
        "given": (
            "hybridreg.methods.given:Given",
            "a transform from a file, to be evaluated",
        ),
        "greedy": (
            "hybridreg.methods.peers.greedy:Greedy",
            "greedy: affine, then a diffeomorphic map (needs picsl_greedy)",
        ),
        "ants-syn": (
            "hybridreg.methods.peers.ants:AntsSyn",
            "ANTs: affine, then SyN (needs antspyx)",
        ),
        "convex-adam": (
            "hybridreg.methods.peers.convex_adam:ConvexAdam",
            "ConvexAdam: coupled convex search and Adam on MIND, after an affine "
            "(needs convexAdam)",
        ),
        "fireants": (
            "hybridreg.methods.peers.fireants:FireAnts",
            "FireANTs on the processor: greedy diffeomorphic, after an affine (needs fireants)",
        ),
        "unigradicon": (
            "hybridreg.methods.peers.unigradicon:UniGradIcon",
            "uniGradICON with your weights, after an affine (needs unigradicon)",
        ),
        "voxelmorph": (
            "hybridreg.methods.peers.voxelmorph:VoxelMorph",
            "VoxelMorph with your weights, after an affine (needs voxelmorph)",
        ),
        "impact": (
            "hybridreg.methods.peers.impact:Impact",
            "IMPACT on the features of your network, after an affine (needs itk-impact)",
        ),
    },
)

# The methods of other packages, which are not installed with hybridreg.
PEERS = ("ants-syn", "greedy", "convex-adam", "fireants", "unigradicon", "voxelmorph", "impact")

MEASURES = Registry(
    "measure",
    "hybridreg.measures",
    {
        "ssd": ("hybridreg.similarity:SSD", "half the mean squared difference"),
        "ncc": ("hybridreg.similarity:NCC", "1 - correlation over all voxels"),
        "lncc": ("hybridreg.similarity:LNCC", "1 - mean squared local correlation"),
        "mi": ("hybridreg.similarity:MI", "mutual information, for any two contrasts"),
        "mixed": (
            "hybridreg.similarity:Mixed",
            "the first channel by one measure, the others by another: an image and descriptors",
        ),
        "gc": (
            "hybridreg.gradient_correlation:GradientCorrelation",
            "1 - correlation of derivatives: agreement of edges, for radiographs",
        ),
    },
)

DESCRIPTORS = Registry(
    "descriptor",
    "hybridreg.descriptors",
    {
        "intensity": (
            "hybridreg.descriptors.intensity:Intensity",
            "intensities scaled to [0, 1]: one modality",
        ),
        "gradient": (
            "hybridreg.descriptors.gradient:Gradient",
            "normalized gradient: edges and their direction, independent of their strength",
        ),
        "mind": (
            "hybridreg.descriptors.mind:Mind",
            "MIND-SSC, self-similarity of the neighborhood: for any two contrasts",
        ),
        "pca": (
            "hybridreg.descriptors.pca:Pca",
            "principal components of patches, learned without labels",
        ),
        "autoencoder": (
            "hybridreg.descriptors.autoencoder.descriptor:Autoencoder",
            "a stacked autoencoder of patches, learned without labels",
        ),
        "anatomy": (
            "hybridreg.descriptors.anatomy.descriptor:Anatomy",
            "which structure a voxel belongs to, learned from labels; the images need none",
        ),
        "stacked": (
            "hybridreg.descriptors.stacked:Stacked",
            "the channels of several descriptors, one after the other",
        ),
        "torchscript": (
            "hybridreg.descriptors.torchscript:TorchScript",
            "layers of any TorchScript model in a file that you trust, reduced by PCA",
        ),
    },
)

RULES = Registry(
    "fusion rule",
    "hybridreg.rules",
    {
        "salience": (
            "hybridreg.fusion.rules:SALIENCE",
            "each region from the more salient image, with the strong edges of the other",
        ),
        "liu-2017": (
            "hybridreg.fusion.rules:LIU_2017",
            "published CNN rule: network weights where sources match, else larger local energy",
        ),
        "liu-2017-fast": (
            "hybridreg.fusion.rules:LIU_2017",
            "the published rule with a small network distilled from the published one",
        ),
        "energy": (
            "hybridreg.fusion.rules:ENERGY",
            "the published rule with local energy in place of the network",
        ),
        "laplacian": (
            "hybridreg.fusion.rules:LAPLACIAN",
            "the stronger detail at every scale, the mean of the low-pass residual",
        ),
        "maximum": (
            "hybridreg.fusion.rules:MAXIMUM",
            "the brighter of the two, voxel by voxel",
        ),
        "mean": ("hybridreg.fusion.rules:MEAN", "the mean of the two"),
        "fixed": ("hybridreg.fusion.rules:FIXED", "a copy of the fixed image"),
        "moved": ("hybridreg.fusion.rules:MOVED", "a copy of the moved image"),
    },
)

DEFAULT_RULE = "salience"

TASKS = Registry(
    "training task",
    "hybridreg.tasks",
    {
        "fusion": (
            "hybridreg.fusion.training:FusionTraining",
            "the published fusion network, from photographs",
        ),
        "quicksilver": (
            "hybridreg.methods.quicksilver.training:QuicksilverTraining",
            "a network that predicts momenta, from a store of momentum targets",
        ),
        "quicksilver-correction": (
            "hybridreg.methods.quicksilver.training:CorrectionTraining",
            "a network that corrects momenta predicted by a quicksilver network",
        ),
        "fusion-fast": (
            "hybridreg.fusion.training:FastFusionTraining",
            "a small network distilled from the published fusion network",
        ),
        "dirnet": (
            "hybridreg.methods.dirnet.task:DirnetTraining",
            "a network that predicts B-splines (DIRNet, DLIR), from pairs of images alone",
        ),
        "pehl": (
            "hybridreg.methods.pehl.task:PehlTraining",
            "the pose of one CT in a radiograph, from its projections (PEHL)",
        ),
        "sae": (
            "hybridreg.descriptors.autoencoder.training:AutoencoderTraining",
            "the stacked autoencoder of the descriptor autoencoder, from images without labels",
        ),
        "pca": (
            "hybridreg.descriptors.pca:PcaTraining",
            "the components of the descriptor pca, from images without labels",
        ),
        "anatomy": (
            "hybridreg.descriptors.anatomy.training:AnatomyTraining",
            "the encoder of the descriptor anatomy, from images with labels",
        ),
    },
)

REGISTRIES = (METHODS, MEASURES, DESCRIPTORS, RULES, TASKS)

# Modules that register how a pair of images of a type is assessed and shown, imported with the
# first one.
PAIR_TYPES = {
    "hybridreg.projection_pair:ProjectionPair": (
        "hybridreg.projection_assessment",
        "hybridreg.projection_views",
    ),
}


def load_pair_type(kind: type):
    """Imports what assesses and shows the registration of a type of pairs."""
    for each in kind.__mro__:
        for module in PAIR_TYPES.get(f"{each.__module__}:{each.__qualname__}", ()):
            import_module(module)
