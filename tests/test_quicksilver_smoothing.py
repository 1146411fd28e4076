"""The loss of momenta in the metric of LDDMM, and patches larger than published."""

from __future__ import annotations

import pytest
import torch
from test_quicksilver import KERNEL, SETTINGS, Stub, card, settings, store, weights  # noqa: F401
from torch import Generator

from hybridreg.geodesics import Kernel
from hybridreg.lattice import Lattice
from hybridreg.methods.quicksilver.network import momentum_network
from hybridreg.methods.quicksilver.prediction import Predictor
from hybridreg.methods.quicksilver.smoothing import Smoothing
from hybridreg.shooting import Operator

LIKE_IMAGES = Kernel(16.0, 16.0, 1.0, 2.0)


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_energy_of_a_patch_is_that_of_its_velocity_on_a_large_grid(dimension):
    size, large = (15,) * dimension, (96,) * dimension
    patch = torch.randn(1, dimension, *size, generator=Generator().manual_seed(0))
    momentum = torch.zeros(dimension, *large, dtype=torch.float64)
    momentum[(slice(None), *[slice(40, 55)] * dimension)] = patch[0].double()
    lattice = Lattice(large, (2.0,) * dimension, (0.0,) * dimension)
    velocity = Operator(LIKE_IMAGES, lattice, torch.float64).sharp(momentum)
    wanted = (momentum * velocity).sum() / patch.numel()
    found = Smoothing(LIKE_IMAGES, 2.0).energy(patch)
    assert found.item() == pytest.approx(wanted.item(), rel=0.01)


def test_patches_of_a_batch_do_not_see_each_other():
    patches = torch.randn(3, 2, 15, 15, generator=Generator().manual_seed(1))
    smoothing = Smoothing(LIKE_IMAGES, 2.0)
    each = torch.stack([smoothing(patch[None])[0] for patch in patches])
    torch.testing.assert_close(smoothing(patches), each)


class Known(torch.nn.Module):
    """Predicts a given momentum times a factor."""

    dimension, scale = 2, 5.0

    def __init__(self, momentum, factor):
        super().__init__()
        self.momentum, self.factor = momentum, factor

    def forward(self, fixed, moving):
        return self.factor * self.momentum


def test_the_smoothed_loss_is_the_energy_of_what_is_missed(store):  # noqa: F811
    task = settings(store, SETTINGS + 'loss = "smoothed"\n').task()
    batch = task.batch(Generator().manual_seed(0))
    momentum = batch["momentum"]
    assert task.losses(Known(momentum, 1.0), batch)["smoothed"] == 0
    energy = Smoothing(Kernel(**KERNEL), 3.0).energy(momentum)
    half = task.losses(Known(momentum, 0.5), batch)["smoothed"].item()
    assert half == pytest.approx(energy.item() / 4 / Known.scale**2)
    scores = task.scores(Known(momentum, 0.5), batch)
    assert scores["relative"].item() == pytest.approx(0.5)
    assert scores["smooth_relative"].item() == pytest.approx(0.25)
    assert "smoothed" in task.card().training["task"]


def test_another_loss_is_refused(store):  # noqa: F811
    with pytest.raises(ValueError, match="absolute, smoothed; found 'square'"):
        settings(store, SETTINGS + 'loss = "square"\n')


def test_a_network_is_trained_and_used_on_patches_of_one_size(store, tmp_path):  # noqa: F811
    task = settings(store, SETTINGS + "patch = 19\n").task()
    assert task.batch(Generator().manual_seed(0))["momentum"].shape[2:] == (19, 19)
    about = task.card()
    assert about.training["patch"] == 19 and "patches of 19 voxels" in about.training_grid
    seen = Stub(lambda f, m: f)
    image = torch.ones(1, 40, 40)
    Predictor(seen, about).momentum(seen, image, image)
    assert {tuple(call.shape[2:]) for call in seen.calls} == {(19, 19)}
    older = card(momentum_network(2, 2))  # a card that does not say it: as published
    assert Predictor(seen, older).patch == 15


def test_patches_that_do_not_fit_are_refused(store, tmp_path):  # noqa: F811
    for patch in (11, 20):
        with pytest.raises(ValueError, match=f"19, 23, 27 ... voxels, found {patch}"):
            settings(store, SETTINGS + f"patch = {patch}\n")
    prediction = weights(tmp_path, 2)
    text = SETTINGS + f'prediction = "{prediction}"\npatch = 19\n'
    with pytest.raises(ValueError, match="set patch = 15"):
        settings(store, text, "quicksilver-correction").task()
