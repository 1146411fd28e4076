"""The siamese network that decides, patch by patch, which of two images is sharper (Liu 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridreg.progress import report, within

PATCH = 16  # pixels along each side of the patch of one score
_STRIDE = 2
_WINDOW = PATCH // _STRIDE  # the same patch in pooled pixels
_SMALLEST = PATCH - 1  # along each side of an image: it is pooled to 8
_HALO = 2  # pooled rows around a strip: more than the receptive field of 2 + 1 convolutions
_STRIP_PIXELS = 1 << 15  # at a time; features of 128 channels then take 16 MiB


class WeightNetwork(Protocol):
    """A network that gives the weight of one image relative to another, pixel by pixel."""

    def weight_map(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """Weight of ``fixed`` in [0, 1]; all of shape (y, x), intensities in [0, 1]."""
        ...


class FusionNetwork(nn.Module):
    """Features of each image by shared weights, then one score for each over 16 x 16 pixels.

    conv 3x3x64, conv 3x3x128, max pooling 2, conv 3x3x256, each with ReLU and zero padding; both
    images' features concatenated; conv 8x8x2 without padding or bias. A larger second output
    gives the first image a larger weight.
    """

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, padding=1)
        self.conv2 = nn.Conv2d(64, 128, 3, padding=1)
        self.conv3 = nn.Conv2d(128, 256, 3, padding=1)
        self.scores = nn.Conv2d(512, 2, _WINDOW, bias=False)

    def features(self, images: Tensor) -> Tensor:
        """Shape (N, 256, ceil(y / 2), ceil(x / 2)) of images of shape (N, 1, y, x)."""
        x = F.relu(self.conv1(images), inplace=True)
        x = F.relu(self.conv2(x), inplace=True)
        x = pooled(x)
        return F.relu(self.conv3(x), inplace=True)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Scores before softmax, shape (N, 2, rows, columns), of images of shape (N, 1, y, x).

        One score each for every 16 x 16 patch at stride 2; a patch alone gives shape (N, 2, 1, 1).
        """
        return self.scores(torch.cat([self.features(first), self.features(second)], 1))

    @torch.no_grad()
    def weight_map(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """Weight of ``fixed`` in [0, 1]: the mean score of all patches that contain a pixel.

        Both of shape (y, x), at least 15 x 15, intensities in [0, 1].
        """
        check_size(fixed.shape)
        first, second = self._kernel().chunk(2)
        evidence = self._evidence(fixed, first) + self._evidence(moved, second)
        return spread(torch.sigmoid(evidence), fixed.shape).to(fixed)

    @torch.no_grad()
    def evidence(self, image: Tensor) -> Tensor:
        """The evidence of an image (y, x) in every patch, shape (rows, columns).

        Half of its score as the first image minus its score as the second. The weight of one image
        relative to another is the logistic function of the difference of their evidence, up to the
        small effect of their order.
        """
        first, second = self._kernel().chunk(2)
        return self._evidence(image, (first - second) / 2)

    def _kernel(self) -> Tensor:
        """Of the last layer, both outputs in one: shape (512, 8, 8)."""
        # A softmax of two is the logistic function of their difference: half of the layer.
        return self.scores.weight[1] - self.scores.weight[0]

    def _evidence(self, image: Tensor, kernel: Tensor) -> Tensor:
        """The contribution of one image to the last layer, kernel (256, 8, 8), for every patch."""
        # As a product for each of the 64 positions in the patch, since convolutions with a single
        # output are slow on most processors; the products are then shifted and added.
        places = kernel.flatten(1).T[:, :, None, None]
        products = torch.cat([F.conv2d(f, places)[0] for f in self._strips(image)], 1)
        rows, columns = (patches_along(n) for n in image.shape)
        parts = products.unflatten(0, (_WINDOW, _WINDOW))
        total = products.new_zeros(rows, columns)
        for y in range(_WINDOW):
            for x in range(_WINDOW):
                total += parts[y, x, y : y + rows, x : x + columns]
        return total

    def _strips(self, image: Tensor) -> Iterator[Tensor]:
        """The features of an image in strips of rows, so that they fit the cache."""
        pooled = (image.shape[0] + 1) // _STRIDE
        step = max(PATCH, _STRIP_PIXELS // (_STRIDE * image.shape[1]))
        for start in range(0, pooled, step):
            stop = min(start + step, pooled)
            above = min(_HALO, start)
            rows = slice(_STRIDE * (start - above), _STRIDE * (stop + _HALO))
            strip = image[rows].to(self.scores.weight)[None, None]
            features = self.features(strip.contiguous(memory_format=torch.channels_last))
            yield features[:, :, above : above + stop - start]


def pooled(features: Tensor) -> Tensor:
    """The maximum over 2 x 2 pixels of features >= 0, (N, C, y, x); at odd ends over what is there.

    Like max_pool2d, which also stores the indices and takes five times as long (torch 2.13).
    """
    rows, columns = features.shape[2:]
    if rows % 2 or columns % 2:
        features = F.pad(features, (0, columns % 2, 0, rows % 2))
    features = torch.maximum(features[:, :, ::2], features[:, :, 1::2])
    return torch.maximum(features[..., ::2], features[..., 1::2])


def check_size(shape: tuple[int, ...]):
    """Refuses an image (y, x) smaller than a patch (ValueError)."""
    if min(shape) < _SMALLEST:
        raise ValueError(
            f"the network scores patches of {PATCH} x {PATCH} pixels and the image has only "
            f"{shape[1]} x {shape[0]}: use a rule without a network"
        )


def patches_along(pixels: int) -> int:
    """The number of patches at stride 2 along an axis; of an odd length the last one is padded."""
    return (pixels + 1) // _STRIDE - _WINDOW + 1


def spread(scores: Tensor, shape: tuple[int, int]) -> Tensor:
    """Spreads each score over all pixels of its patch; the mean where patches overlap."""
    # An even pixel and its right neighbor lie in the same patches.
    margin = (_WINDOW - 1,) * 4
    both = F.pad(torch.stack([scores, torch.ones_like(scores)])[:, None], margin)
    total, count = F.avg_pool2d(both, _WINDOW, stride=1)[:, 0]
    mean = (total / count).repeat_interleave(_STRIDE, 0).repeat_interleave(_STRIDE, 1)
    return mean[: shape[0], : shape[1]]


def weigh_slices(network: WeightNetwork, fixed: Tensor, moved: Tensor) -> Tensor:
    """Weight of ``fixed`` in [0, 1] for slices (N, y, x), each independently.

    Where both slices are empty (0 everywhere) any weight gives the same, and it is 1/2.
    """
    weights = torch.full_like(fixed, 1 / 2)
    for number, (a, b) in enumerate(zip(fixed, moved, strict=True)):
        report(number / len(fixed), "weighing slices")
        if a.any() or b.any():
            weights[number] = network.weight_map(a, b)
    return weights


def weigh_volume(network: WeightNetwork, fixed: Tensor, moved: Tensor) -> Tensor:
    """The mean of the weights from slices across each axis of volumes (z, y, x).

    An axis whose slices are smaller than a patch is left out.
    """
    axes = [a for a in range(3) if min(n for i, n in enumerate(fixed.shape) if i != a) >= _SMALLEST]
    if not axes:
        size = " x ".join(map(str, reversed(fixed.shape)))
        raise ValueError(
            f"the network scores patches of {PATCH} x {PATCH} pixels and no slice of a volume of "
            f"{size} voxels is that large: use a rule without a network"
        )
    total = torch.zeros_like(fixed)
    for done, axis in enumerate(axes):
        with within(done / len(axes), (done + 1) / len(axes)):
            weights = weigh_slices(network, fixed.movedim(axis, 0), moved.movedim(axis, 0))
        total += weights.movedim(0, axis)
    return total.div_(len(axes))


_LAYOUT = {
    "conv1": (64, 1, 3, 3),
    "conv1_bias": (64,),
    "conv2": (128, 64, 3, 3),
    "conv2_bias": (128,),
    "conv3": (256, 128, 3, 3),
    "conv3_bias": (256,),
    "scores": (2, 512, 8, 8),
}


def network_from_arrays(arrays: Mapping[str, np.ndarray]) -> FusionNetwork:
    """The network with weights from plain arrays.

    conv1 (64, 1, 3, 3), conv2 (128, 64, 3, 3), conv3 (256, 128, 3, 3), scores (2, 512, 8, 8):
    output, input, row, column; applied as cross-correlation, that is without flipping the kernel.
    conv1_bias (64,), conv2_bias (128,), conv3_bias (256,). Intensities are in [0, 1].
    Of scores, the inputs 0-255 are the features of the first (fixed) image and 256-511 those of the
    second; output 1 is the score of the first image and output 0 that of the second.
    """
    if set(arrays) != set(_LAYOUT):
        raise ValueError(f"the network needs {', '.join(_LAYOUT)}; found {', '.join(arrays)}")
    state = {}
    for name, shape in _LAYOUT.items():
        values = np.asarray(arrays[name], dtype=np.float32)
        if values.shape != shape:
            raise ValueError(f"{name} needs shape {shape}, found {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has values that are NaN or infinite")
        state[_parameter(name)] = torch.from_numpy(values.copy())
    network = FusionNetwork()
    network.load_state_dict(state)
    return network.eval()


def network_arrays(network: FusionNetwork) -> dict[str, np.ndarray]:
    """The weights as plain arrays, in the layout of ``network_from_arrays``."""
    state = network.state_dict()
    return {name: state[_parameter(name)].cpu().numpy().copy() for name in _LAYOUT}


def _parameter(name: str) -> str:
    return name.replace("_bias", ".bias") if name.endswith("_bias") else f"{name}.weight"
