"""A segmentation network whose classes are channels of a registration: what labels can add to local correlation.

A 3D U-Net at 2 mm, trained with the labels of the training persons of oasis_malf35 (all
structures), its input the image and each voxel's place in the brain. `Segmented` gives a
registration not the classes but few channels: each class has a vector, vectors of classes that
touch each other are far apart, and a voxel has the mean of the vectors by the probabilities of its
classes.

Training on one core, then registrations whose rows are added to features.csv:

    HYBRIDREG_DATA=... python examples/benchmarks/segmentation.py FOLDER --minutes 35
    HYBRIDREG_DATA=... python examples/benchmarks/segmentation.py FOLDER --arms unet "lncc + 30 unet" [--persons test]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import features
import torch
import torch.nn.functional as F
from lddmm import THREADS, add, folder, images, known
from torch import Generator, Tensor, nn
from train_descriptors import TRAIN, VALIDATION

from hybridreg.config import with_settings
from hybridreg.descriptors.anatomy.network import brain, places
from hybridreg.descriptors.intensity import Intensity
from hybridreg.descriptors.stacked import Stacked
from hybridreg.descriptors.trained_lattice import TrainedLattice
from hybridreg.images import Image
from hybridreg.io.images import read_image, read_labels
from hybridreg.methods.combine import OnFeatures
from hybridreg.methods.instance import Instance
from hybridreg.similarity import LNCC, SSD, Mixed

LATTICE = TrainedLattice(3, 2.0, "percentiles", upright=True)
SHAPE = (72, 96, 72)  # of the network's input, around the brain; (z, y, x) of 2 mm
WIDTHS = (16, 32, 64, 128)
CODES = 10  # channels of a registration
RATE = 3e-3
WEIGHTS = (10, 30, 100, 300)  # of the channels beside local correlation
EMA = 0.99
VOXELS = 80_000  # of the loss


class UNet(nn.Module):
    """Image and places (1, 4, *shape), sides multiples of 8 -> features (1, 16, *shape);
    ``scores`` of voxels.
    """

    def __init__(self, classes: int, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        ins = (4, *widths)
        self.down = nn.ModuleList(_block(a, b) for a, b in zip(ins, widths))  # noqa: B905
        pairs = [(widths[i] + widths[i + 1], widths[i]) for i in reversed(range(len(widths) - 1))]
        self.up = nn.ModuleList(_block(a, b) for a, b in pairs)
        self.head = nn.Sequential(
            nn.Linear(widths[0], 64), nn.LeakyReLU(0.1), nn.Linear(64, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.max_pool3d(x, 2))
            kept.append(x)
        for block, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], 1))
        return x

    def scores(self, features: Tensor) -> Tensor:
        """Logits (N, classes) of voxels (N, 16)."""
        return self.head(features)


def _block(a: int, b: int) -> nn.Sequential:
    layers = []
    for channels in (a, b):
        layers += [nn.Conv3d(channels, b, 3, padding=1), nn.InstanceNorm3d(b, affine=True)]
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


def given(values: Tensor) -> Tensor:
    """The input of the network for values (1, *SHAPE): (1, 4, *SHAPE)."""
    return torch.cat([values, places(values)])[None]


# Training
# -------------------------------------------------------------------------------------------


class Person:
    """values: (1, *shape), 2 mm. classes: (*shape) of 1 mm, numbers of labels. Both upright."""

    def __init__(self, person: int, labels: list[int]):
        image = read_image(folder() / f"{person}_SS.nii.gz")
        label_map = read_labels(folder() / f"{person}_glm.nii.gz")
        self.values = LATTICE.values(image)
        order, turned = image.grid.upright_axes()
        fine = label_map.data.permute(*order).flip(list(turned))
        known = torch.tensor(labels)
        place = torch.searchsorted(known, fine.long()).clamp(max=len(known) - 1)
        self.classes = torch.where(known[place] == fine, place, 0).float()
        low, high = _box(self.values)
        self.center = (low + high) / 2

    def seen(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Values (1, *SHAPE) and classes (*SHAPE) at points (*SHAPE, 3), in voxels of 2 mm."""
        middle = points - (torch.tensor(self.values.shape[1:]) - 1) / 2  # both have one center
        values = _sampled(self.values[None], middle, "bilinear")[0]
        classes = _sampled(self.classes[None, None], middle * 2, "nearest")[0, 0]
        return values, classes.long()


def _sampled(data: Tensor, middle: Tensor, mode: str) -> Tensor:
    """(1, 1, *shape) at points (*SHAPE, 3), in voxels from its center."""
    u = (middle * 2 / torch.tensor(data.shape[2:])).flip(-1)[None]
    return F.grid_sample(data, u, mode=mode, padding_mode="zeros", align_corners=False)


def _box(values: Tensor) -> tuple[Tensor, Tensor]:
    inside = brain(values).nonzero().float()
    return inside.amin(0), inside.amax(0)


def lattice_points(center: Tensor) -> Tensor:
    axes = [torch.arange(n) - (n - 1) / 2 for n in SHAPE]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) + center.round()


def posed(center: Tensor, generator: Generator) -> Tensor:
    """Points of a random affine and elastic deformation."""
    rand = lambda *n: torch.randn(*n, generator=generator)  # noqa: E731
    matrix = torch.eye(3) + torch.diag(0.08 * rand(3)) + 0.05 * rand(3, 3)
    z, y, x = (0.12 * rand(3)).tolist()
    matrix = matrix @ torch.linalg.matrix_exp(torch.tensor([[0, -x, y], [x, 0, -z], [-y, z, 0]]))
    points = (lattice_points(center) - center) @ matrix.T + center + 2 * rand(3)
    for nodes, sigma in ((4, 2.0), (9, 1.0)):
        coarse = sigma * rand(1, 3, *[nodes] * 3)
        points = points + F.interpolate(coarse, SHAPE, mode="trilinear", align_corners=True)[
            0
        ].movedim(0, -1)
    return points


def lit(values: Tensor, generator: Generator) -> Tensor:
    """Random gamma, gain, bias and noise."""
    rand = lambda *n: torch.randn(*n, generator=generator)  # noqa: E731
    bias = F.interpolate(0.1 * rand(1, 1, 4, 4, 4), SHAPE, mode="trilinear", align_corners=True)[0]
    made = values.clamp(min=0) ** (0.2 * rand(1)).exp() * (0.1 * rand(1) + bias).exp()
    return torch.where(values > 0.02, made + 0.02 * rand(*values.shape), values).clamp(0, 1.2)


def mirrored(labels: list[int]) -> Tensor:
    """The class of the other side for each class."""
    with (folder().parent / "label_names.csv").open(encoding="utf-8", errors="replace") as file:
        names = {int(r[0]): " ".join(r[1].split()) for r in list(csv.reader(file))[1:]}
    numbers = {}
    for n in labels:
        numbers.setdefault(names.get(n, str(n)), n)
    swap = {"Left": "Right", "Right": "Left"}
    out = []
    for n in labels:
        side, _, rest = names.get(n, str(n)).partition(" ")
        other = numbers.get(f"{swap[side]} {rest}", n) if side in swap else n
        out.append(labels.index(other))
    return torch.tensor(out)


def loss_of(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy, small structures weigh more, plus one minus the mean soft Dice."""
    entropy = F.cross_entropy(logits, classes, weight=weights)
    chance = logits.softmax(1)
    size = classes.bincount(minlength=logits.shape[1]).float()
    both = torch.zeros_like(size).index_add(0, classes, chance.gather(1, classes[:, None])[:, 0])
    soft = (2 * both + 1) / (size + chance.sum(0) + 1)
    return entropy + 1 - soft[1:][size[1:] > 0].mean()


def dice_of(network: UNet, person: Person) -> float:
    values, classes = person.seen(lattice_points(person.center))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = network(given(values))[0]
    inside = (values[0] > 0) | (classes > 0)
    found = network.scores(features[:, inside].T.float()).argmax(1)
    wanted, size = classes[inside], len(network.head[-1].bias)
    both = wanted[wanted == found].bincount(minlength=size)
    sizes = wanted.bincount(minlength=size) + found.bincount(minlength=size)
    shown = wanted.bincount(minlength=size)[1:] > 0
    return float((2 * both / sizes.clamp(min=1))[1:][shown].mean())


def train(run: Path, minutes: float, seed: int = 0):
    run.mkdir(parents=True, exist_ok=True)
    maps = [read_labels(folder() / f"{p}_glm.nii.gz").data for p in TRAIN]
    labels = sorted(set().union(*(m.unique().tolist() for m in maps)) | {0})
    persons = [Person(p, labels) for p in TRAIN]
    held = [Person(p, labels) for p in VALIDATION]
    other, generator = mirrored(labels), Generator().manual_seed(seed)
    print(
        f"{len(labels)} classes, {int((other != torch.arange(len(labels))).sum())} of "
        "them have a side",
        flush=True,
    )
    sizes = sum(p.classes.long().flatten().bincount(minlength=len(labels)) for p in persons).float()
    weights = (sizes.median() / sizes.clamp(min=1)).sqrt().clamp(0.1, 3)
    torch.manual_seed(seed)
    network = UNet(len(labels))
    mean = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    touching = torch.zeros(len(labels), len(labels))
    begin, step, shown = time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - begin) / (60 * minutes)) < 1:
        person = persons[int(torch.randint(len(persons), (1,), generator=generator))]
        values, classes = person.seen(posed(person.center, generator))
        if torch.rand(1, generator=generator) < 0.5:
            values, classes = values.flip(-1), other[classes].flip(-1)
        values = lit(values, generator)
        inside = ((values[0] > 0.01) | (classes > 0)).flatten().nonzero()[:, 0]
        inside = inside[torch.randint(len(inside), (VOXELS,), generator=generator)]
        for group in optimizer.param_groups:
            group["lr"] = (
                RATE * min(1, (step + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-5
            )
        with torch.autocast("cpu", torch.bfloat16):
            features = network(given(values))[0]
        logits = network.scores(features.flatten(1)[:, inside].T.float())
        loss = loss_of(logits, classes.flatten()[inside], weights)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        keep = min(EMA, step / (step + 10))
        for k, v in network.state_dict().items():
            mean[k].mul_(keep).add_(v, alpha=1 - keep)
        if step < 20:
            _count(touching, classes)
        step, shown = step + 1, 0.95 * shown + 0.05 * loss.item()
        if step % 50 == 0:
            tried = UNet(len(labels)).eval()
            tried.load_state_dict(mean)
            found = [dice_of(tried, p) for p in held] if step % 200 == 0 else []
            print(step, f"{done:.3f} loss {shown:.3f}", *[f"{d:.4f}" for d in found], flush=True)
            torch.save({"labels": labels, "network": mean, "touching": touching}, run / "unet.pt")
    tried.load_state_dict(mean)
    print("end", step, *[f"{dice_of(tried, p):.4f}" for p in held], flush=True)
    torch.save({"labels": labels, "network": mean, "touching": touching}, run / "unet.pt")


def _count(touching: Tensor, classes: Tensor):
    for axis in range(3):
        a = classes.narrow(axis, 0, classes.shape[axis] - 1).flatten()
        b = classes.narrow(axis, 1, classes.shape[axis] - 1).flatten()
        which = a != b
        pairs = (a[which] * len(touching) + b[which]).bincount(minlength=touching.numel())
        touching += pairs.view_as(touching) + pairs.view_as(touching).T


# Channels
# -------------------------------------------------------------------------------------------


@torch.enable_grad()
def codes_of(touching: Tensor, count: int = CODES) -> Tensor:
    """Unit vectors (classes, count), those of classes that touch each other far apart."""
    near = touching / touching.sum(1, keepdim=True).clamp(min=1)
    near = near + near.T + 0.3 / len(near)
    vectors = torch.randn(len(near), count, generator=Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([vectors], 0.05)
    for _ in range(500):
        found = F.normalize(vectors - vectors.mean(1, keepdim=True), dim=1)
        alike = (found @ found.T) - torch.eye(len(near))
        loss = (near.sqrt() * (4 * alike).exp()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found.detach()


@dataclass(frozen=True)
class Segmented:
    """The descriptor of a trained network: (CODES, *shape)."""

    run: str

    @cached_property
    def _trained(self) -> tuple[UNet, Tensor]:
        kept = torch.load(Path(self.run) / "unet.pt", weights_only=True)
        network = UNet(len(kept["labels"])).eval()
        network.load_state_dict(kept["network"])
        return network, codes_of(kept["touching"])

    def __call__(self, image: Image) -> Image:
        return Image(torch.cat(LATTICE.described(image, self._channels)), image.grid)

    @torch.no_grad()
    def _channels(self, values: Tensor) -> Tensor:
        network, codes = self._trained
        low, high = _box(values)
        window = _Window(values.shape[1:], ((low + high) / 2).round())
        inner = window.cut(values)
        with torch.autocast("cpu", torch.bfloat16):
            features = network(given(inner))[0].float()
        out = codes[0][:, None, None, None].expand(-1, *SHAPE).clone()
        inside = inner[0] > 0
        out[:, inside] = (network.scores(features[:, inside].T).softmax(1) @ codes).T
        return window.put(out, codes[0])


class _Window:
    """SHAPE around a center, of an image that it may extend beyond."""

    def __init__(self, shape: tuple[int, ...], center: Tensor):
        first = [int(c) - n // 2 for c, n in zip(center, SHAPE, strict=True)]
        self._shape = tuple(shape)
        self._of_image = tuple(
            slice(max(f, 0), min(f + n, s)) for f, n, s in zip(first, SHAPE, shape, strict=True)
        )
        self._of_window = tuple(
            slice(i.start - f, i.stop - f) for i, f in zip(self._of_image, first, strict=True)
        )

    def cut(self, values: Tensor) -> Tensor:
        out = values.new_zeros(len(values), *SHAPE)
        out[:, *self._of_window] = values[:, *self._of_image]
        return out

    def put(self, values: Tensor, beyond: Tensor) -> Tensor:
        out = beyond[:, None, None, None].expand(-1, *self._shape).clone()
        out[:, *self._of_image] = values[:, *self._of_window]
        return out


# Registration
# ---------------------------------------------------------------------------------------


def methods(run: Path) -> dict[str, dict | OnFeatures]:
    """By name of the arm, 2 mm and 1 mm; "unet" is the network's segmentation as channels alone."""
    made = {}
    for name, iterations, spacing in (
        ("", (50, 50, 50, 50), 2.0),
        (", 1 mm", (50, 50, 50, 50, 20), 1.0),
    ):
        instance = Instance(iterations=iterations, spacing_mm=spacing)
        alone = replace(instance, similarity=SSD())
        made[f"unet{name}"] = OnFeatures(Segmented(str(run)), alone)
        for weight in WEIGHTS:
            mixed = replace(instance, similarity=Mixed(LNCC(2), SSD(), weight))
            both = Stacked((Intensity(), Segmented(str(run))))
            made[f"lncc + {weight:g} unet{name}"] = OnFeatures(both, mixed)
    return made


def register(run: Path, persons: str, arms: list[str], smoothness: list[float], most: int | None):
    made, done = methods(run), 0
    for pair, arm, smooth in itertools.product(features.PERSONS[persons], arms, smoothness):
        key = {"fixed": pair[0], "moving": pair[1], "contrast": "same", "arm": arm}
        key["smoothness"] = f"{smooth:g}"
        if known(features.NAME, **key) or (most is not None and done >= most):
            continue
        method = with_settings(made[arm], smoothness=smooth)
        found = features.evaluated(images(*pair), pair, method, features.affine(*pair))
        add(features.NAME, {**key, **found})
        done += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, help="train for so long")
    parser.add_argument("--arms", nargs="+", default=[])
    parser.add_argument("--persons", choices=list(features.PERSONS), default="validation")
    parser.add_argument("--smoothness", type=float, nargs="+", default=[1.1])
    parser.add_argument("--most", type=int, help="rows, then end")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    if given.minutes:
        train(given.run, given.minutes)
    register(given.run, given.persons, given.arms, given.smoothness, given.most)


if __name__ == "__main__":
    main()
