"""Simulated exposure of line integrals: scatter, blur and quantum noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.kernels.smoothing import smoothed
from hybridreg.radiographs import Radiograph


@dataclass(frozen=True)
class Exposure:
    """Recorded photons, given back as line integrals: -log(recorded / recorded without a patient).

    photons: per pixel without a patient; more give less noise; 0 for no noise.
    blur_mm: sigma of the detector's blur, on the detector.
    scatter: mean ratio of scattered to primary photons; more flattens the contrast.
    scatter_mm: sigma over which scatter spreads, on the detector.
    """

    photons: float = 10_000.0
    blur_mm: float = 0.0
    scatter: float = 0.0
    scatter_mm: float = 40.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} of an exposure is 0 or more, found {value}")

    def __call__(
        self, radiograph: Radiograph, generator: torch.Generator | None = None
    ) -> Radiograph:
        """The radiograph (line integrals) as it would be measured; every channel by itself.

        generator: makes the noise repeatable.
        """
        spacing = radiograph.grid.spacing[:2]
        signal = torch.exp(-radiograph.data)  # Beer and Lambert
        if self.scatter:
            spread = _blurred(signal, self.scatter_mm, spacing)
            signal = (signal + self.scatter * spread) / (1 + self.scatter)
        signal = _blurred(signal, self.blur_mm, spacing)
        if self.photons:
            counts = torch.poisson(self.photons * signal, generator=generator)
            signal = counts.clamp(min=0.5) / self.photons  # a pixel without any has a logarithm too
        return Radiograph(-signal.log(), radiograph.detector)


def saturated(integrals: Tensor, scatter: float | Tensor) -> Tensor:
    """Line integrals as measured with a uniform ratio of scattered X-rays to those without a
    patient.

    They end at log(1 / scatter + 1), so metal looks flat; 0 changes nothing.
    """
    return -((torch.exp(-integrals) + scatter) / (1 + scatter)).log()


def _blurred(values: Tensor, sigma_mm: float, spacing: tuple[float, ...]) -> Tensor:
    return smoothed(values, tuple(sigma_mm / step for step in spacing))
