"""MIND-SSC as a TorchScript model, for tools that compare the features of such a file.

python examples/benchmarks/scripted_mind.py mind.pt
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridreg.descriptors.mind import _LIMITS, Mind, _pairs
from hybridreg.geometry import Grid
from hybridreg.images import Image


class ScriptedMind(nn.Module):
    """(1, 1, *shape) -> [(1, 12, *shape)], as ``Mind()`` of the image."""

    def __init__(self):
        super().__init__()
        mind = Mind()
        self.low, self.high = _LIMITS
        self.radius, self.reach = mind.radius, mind.dilation
        self.steps = _pairs(3, mind.dilation).tolist()

    def forward(self, image: Tensor) -> list[Tensor]:
        r = self.reach
        padded = F.pad(image, [r] * 6, mode="replicate")
        z, y, x = image.size(2), image.size(3), image.size(4)
        found: list[Tensor] = []
        for pair in self.steps:
            sides: list[Tensor] = []
            for s in pair:
                sides.append(
                    padded[
                        :,
                        :,
                        r + s[0] : r + s[0] + z,
                        r + s[1] : r + s[1] + y,
                        r + s[2] : r + s[2] + x,
                    ]
                )
            square = (sides[0] - sides[1]).square()
            found.append(F.avg_pool3d(square, 3, stride=1, padding=1, count_include_pad=False))
        distances = torch.cat(found, 1)
        distances = distances - distances.amin(1, keepdim=True)
        variance = distances.mean(1, keepdim=True)
        mean = variance.mean()
        variance = variance.clamp(float(self.low * mean), float(self.high * mean)).clamp(min=1e-30)
        described = (-distances / variance).exp()
        return [described / described.norm(2, dim=[1], keepdim=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file")
    model = torch.jit.script(ScriptedMind().eval())
    image = Image(
        torch.rand(1, 20, 22, 24, generator=torch.Generator().manual_seed(0)), Grid((20, 22, 24))
    )
    apart = (model(image.data[None])[0][0] - Mind()(image).data).abs().max().item()
    if apart > 1e-4:
        raise SystemExit(f"the exported model differs from MIND-SSC by {apart}")
    torch.jit.save(model, parser.parse_args().file)


if __name__ == "__main__":
    main()
