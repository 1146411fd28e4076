"""What the shipped Quicksilver networks predict, compared with the optimization that they learned from.

Slices: the first pairs of the test slices of oasis_2d_mermaid in a fixed random order. Brains: the
test persons of oasis_malf35, every one onto every other. All methods follow the affine of the
presets. Target: LDDMM with the settings of the training. Measures:

  momentum   mean |m - m*| over mean |m*|, m* the target's; 1 for a prediction of 0
  map_mm     mean distance from the target's map in the fixed brain; that of the affine alone is its
  size rmse       of the moved and the fixed image, both scaled to [0, 1], in the fixed brain
  dice       mean of all labels of the fixed image, resampled once (brains)
  folds      folded voxels of the fixed image

It does not run by `hybridreg compare`: it measures momenta and maps against the optimization that
they learned from.

Rows are added to quicksilver.csv as they come and not computed again; `table` writes
quicksilver.md.

    HYBRIDREG_DATA=... python examples/benchmarks/quicksilver.py slices|brains|hybrid|contrast|
        uncertainty|regression|times|table [--pairs N] [--store TARGETS.zarr]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from brain_mr import TEST
from scipy.stats import spearmanr

from hybridreg.cases import ImagePair
from hybridreg.config import load_method
from hybridreg.evaluation import dice
from hybridreg.geodesics import GeodesicTransform
from hybridreg.images import Image
from hybridreg.io.checkpoints import packaged_weights
from hybridreg.io.images import read_image, read_labels
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.methods.quicksilver.contrast import remapped
from hybridreg.methods.quicksilver.prediction import Predictor, trained, upright_grid
from hybridreg.momentum import along_axes
from hybridreg.network_inputs import on_grid, scaled
from hybridreg.preprocessing import coarser
from hybridreg.similarity import LNCC, MI
from hybridreg.transforms import DisplacementField, Transform, parts_of
from hybridreg.warping import jacobian_determinant, warp

HERE = Path(__file__).parent
ROWS = HERE / "quicksilver.csv"
COLUMNS = ("part", "pair", "arm", "measure", "value")
BRAINS = load_method("affine-fast")
SLICES = replace(BRAINS, similarity=LNCC(4), levels_mm=(4.0, 2.0))
LDDMM_2D = load_method(
    {
        "name": "lddmm",
        "similarity": {"name": "lncc", "radius": 4},
        "image_mm": [4.0, 2.0, 1.0],
        "momentum_mm": [8.0, 4.0, 2.0],
        "iterations": [40, 30, 20],
        "sigma": 0.04,
    }
)
LDDMM_3D = load_method(
    {
        "name": "lddmm",
        "similarity": {"name": "lncc", "radius": 2},
        "image_mm": [4.0, 2.0],
        "momentum_mm": [8.0, 4.0],
        "iterations": [40, 25],
        "sigma": 0.03,
    }
)
FAST = load_method("brain-fast").stages[-1]


def data() -> Path:
    return Path(os.environ["HYBRIDREG_DATA"])


def test_slices(count: int) -> list[tuple[int, int]]:
    pairs = list(itertools.permutations(range(68, 80), 2))
    random.Random(1).shuffle(pairs)
    return pairs[:count]


def slices(fixed: int, moving: int) -> ImagePair:
    folder = data() / "oasis_2d_mermaid"
    return ImagePair(*(read_image(folder / f"oasis2d_{n:04d}.nrrd") for n in (fixed, moving)))


def brains(fixed: int, moving: int, spacing_mm: float = 1.0) -> ImagePair:
    folder = data() / "oasis_malf35" / "subjects"
    images = (read_image(folder / f"{person}_SS.nii.gz") for person in (fixed, moving))
    return ImagePair(*(coarser(i, spacing_mm) if spacing_mm > 1 else i for i in images))


def rows() -> list[dict[str, str]]:
    return list(csv.DictReader(ROWS.open(newline=""))) if ROWS.exists() else []


def add(part: str, pair: object, arm: str, **values: float):
    new = not ROWS.exists()
    with ROWS.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        writer.writerows((part, pair, arm, name, f"{value:.5g}") for name, value in values.items())
    print(part, pair, arm, values, flush=True)


def done(part: str, pair: object) -> bool:
    return any(row["part"] == part and row["pair"] == str(pair) for row in rows())


def forget(part: str):
    kept = [row for row in rows() if row["part"] != part]
    with ROWS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)


# Measures


def seen_by(predictor: Predictor, pair: ImagePair, start: Transform, target: GeodesicTransform):
    """Both images on the target's own grid, and its momentum there along the grid's axes."""
    grid = upright_grid(target.grid)
    order, turned = target.grid.upright_axes()
    momentum = target.momentum.permute(0, *[a + 1 for a in order]).flip([a + 1 for a in turned])
    shown = on_grid(pair, start, grid)
    rule = predictor.card.intensity_rule
    seen = ImagePair(scaled(shown.fixed, rule), scaled(shown.moving, rule))
    return seen, along_axes(momentum, grid)


def momentum_errors(
    predictor: Predictor, pair: ImagePair, start: Transform, target: GeodesicTransform
) -> dict[str, float]:
    """Of the prediction, and with the correction if there is one."""
    seen, wanted = seen_by(predictor, pair, start, target)
    found = predictor.momentum(predictor.network, seen.fixed.data, seen.moving.data)
    errors = {"prediction": (found - wanted).abs().mean() / wanted.abs().mean()}
    if predictor.correction is not None:
        back = warp(seen.fixed, predictor.shot(found, seen.fixed.grid, seen.fixed.grid).inverse(),
                    onto=seen.fixed.grid)  # fmt: skip
        found = found + predictor.momentum(predictor.correction, back.data, seen.moving.data)
        errors["corrected"] = (found - wanted).abs().mean() / wanted.abs().mean()
    return {name: value.item() for name, value in errors.items()}


def fit(pair: ImagePair, found: Transform, target: Transform) -> dict[str, float]:
    grid = pair.fixed.grid
    inside = pair.fixed.data[0] > 0
    field = DisplacementField.sampled(found, grid)
    wanted = DisplacementField.sampled(target, grid)
    fixed, moving = (scaled(image, "percentiles") for image in (pair.fixed, pair.moving))
    moved = warp(moving, field, onto=grid)
    return {
        "map_mm": (field.vectors - wanted.vectors).norm(dim=0)[inside].mean().item(),
        "rmse": (moved.data - fixed.data)[0][inside].square().mean().sqrt().item(),
        "folds": int((jacobian_determinant(field, grid).data <= 0).sum()),
    }


def overlap(fixed: int, moving: int, found: Transform) -> float:
    folder = data() / "oasis_malf35" / "subjects"
    labels = [read_labels(folder / f"{person}_glm.nii.gz") for person in (fixed, moving)]
    field = DisplacementField.sampled(found, labels[0].grid)
    return statistics.mean(dice(labels[0], warp(labels[1], field, onto=labels[0].grid)).values())


def timed(call, *given) -> tuple[RegistrationResult, float]:
    before = time.process_time()
    return call(*given), time.process_time() - before


def network(name: str, **more) -> RegistrationMethod:
    """The last stage of the preset of this name, or of that of slices with other weights."""
    if name in ("2d", "brain"):
        return replace(load_method(f"quicksilver-{name}").stages[-1], **more)
    return network("2d", weights=f"quicksilver-{name}", **more)


def networks(name: str) -> dict[str, RegistrationMethod]:
    """The arms of a network, as far as its weights are there."""
    found = {"prediction": network(name)}
    if (correction := f"quicksilver-{name}-correction") in packaged_weights():
        found["corrected"] = network(name, correction=correction)
    return found


def predictor_of(name: str) -> Predictor:
    last = list(networks(name).values())[-1]
    return trained(last.weights, last.correction)


# Parts


def compared_slices(count: int):
    predictor = predictor_of("2d")
    for fixed, moving in test_slices(count):
        if done("slices", f"{fixed}-{moving}"):
            continue
        pair = slices(fixed, moving)
        start = SLICES.register(pair).transform
        target, seconds = timed(LDDMM_2D.register, pair, start)
        momentum = momentum_errors(predictor, pair, start, parts_of(target.transform)[-1])
        name = f"{fixed}-{moving}"
        add("slices", name, "affine", momentum=1, **fit(pair, start, target.transform))
        add("slices", name, "LDDMM", s=seconds, **fit(pair, target.transform, target.transform))
        for arm, method in networks("2d").items():
            found, seconds = timed(method.register, pair, start)
            add("slices", name, arm, momentum=momentum[arm], s=seconds,
                **fit(pair, found.transform, target.transform))  # fmt: skip


def compared_brains(count: int, references: int):
    """LDDMM, and what is measured from it, for the first pairs only: it takes minutes."""
    predictor = predictor_of("brain")
    for number, (fixed, moving) in enumerate(TEST[:count]):
        name = f"{fixed}-{moving}"
        if done("brains", name):
            continue
        full, pair = brains(fixed, moving), brains(fixed, moving, 2.0)
        start = BRAINS.register(full).transform
        found = {"affine": (start, {})}
        for arm, method in networks("brain").items():
            result, seconds = timed(method.register, pair, start)
            found[arm] = result.transform, {"s": seconds}
        target = start
        if number < references:
            result, seconds = timed(LDDMM_3D.register, pair, start)
            target = result.transform
            errors = momentum_errors(predictor, pair, start, parts_of(target)[-1])
            for arm, value in {"affine": 1.0, **errors}.items():
                found[arm][1]["momentum"] = value
            found["LDDMM"] = target, {"s": seconds}
        for arm, (transform, known) in found.items():
            scores = fit(full, transform, target)
            if number >= references:
                del scores["map_mm"]
            dices = {"dice": overlap(fixed, moving, transform)}
            add("brains", name, arm, **dices, **known, **scores)


def contrasts(count: int):
    """Moving slices with every tissue in another brightness: one random curve each."""
    rival = replace(LDDMM_2D, similarity=MI())
    for fixed, moving in test_slices(count):
        name = f"{fixed}-{moving}"
        if done("contrast", name):
            continue
        pair = slices(fixed, moving)
        start = SLICES.register(pair).transform
        target = LDDMM_2D.register(pair, start).transform
        generator = torch.Generator().manual_seed(1000 * fixed + moving)
        data_ = remapped(scaled(pair.moving, "percentiles").data[None], generator)[0]
        other = replace(pair, moving=Image(data_, pair.moving.grid))

        def scores(found: Transform) -> dict[str, float]:
            return fit(pair, found, target)  # the images of one contrast, moved by what was found

        add("contrast", name, "affine", **scores(start))
        arms = [
            ("one contrast, its network", network("2d"), pair),
            ("two contrasts, network of one", network("2d"), other),
            ("two contrasts, LDDMM by MI", rival, other),
        ]
        if "quicksilver-2d-multimodal" in packaged_weights():
            arms.append(("two contrasts, their network", network("2d-multimodal"), other))
        for arm, method, images in arms:
            found, seconds = timed(method.register, images, start)
            add("contrast", name, arm, s=seconds, **scores(found.transform))


def hybrids(count: int):
    """LDDMM from the prediction, its finest level alone, beside all levels from the affine."""
    finest = replace(LDDMM_2D, image_mm=(1.0,), momentum_mm=(2.0,), iterations=(20,))
    for fixed, moving in test_slices(count):
        name = f"{fixed}-{moving}"
        if done("hybrid", name):
            continue
        pair = slices(fixed, moving)
        start = SLICES.register(pair).transform
        predicted, first = timed(network("2d").register, pair, start)
        total, seconds = timed(LDDMM_2D.register, pair, start)
        add(
            "hybrid",
            name,
            "affine, LDDMM",
            s=seconds,
            **fit(pair, total.transform, total.transform),
        )
        for arm, begin, before in (
            ("affine, finest level of LDDMM", start, 0.0),
            ("network, finest level of LDDMM", predicted.transform, first),
        ):
            found, seconds = timed(finest.register, pair, begin)
            scores = fit(pair, found.transform, total.transform)
            add("hybrid", name, arm, s=before + seconds, **scores)


def uncertainty(count: int):
    """Also a picture of all voxels of the pairs of this run, quicksilver_uncertainty.png."""
    method = network("2d-dropout", samples=50)
    both = []
    for fixed, moving in test_slices(count):
        name = f"{fixed}-{moving}"
        if done("uncertainty", name):
            continue
        pair = slices(fixed, moving)
        start = SLICES.register(pair).transform
        target = LDDMM_2D.register(pair, start).transform
        result = method.register(pair, start)
        grid, inside = pair.fixed.grid, pair.fixed.data[0] > 0
        found = DisplacementField.sampled(result.transform, grid).vectors
        error = (found - DisplacementField.sampled(target, grid).vectors).norm(dim=0)
        moved = (found - DisplacementField.sampled(start, grid).vectors).norm(dim=0)
        gradient = torch.stack(torch.gradient(pair.fixed.data[0])).norm(dim=0)
        for arm, values in (
            ("uncertainty", result.uncertainty.data[0]),
            ("displacement", moved),
            ("image gradient", gradient),
        ):
            rank = spearmanr(values[inside].numpy(), error[inside].numpy()).statistic
            add("uncertainty", name, arm, spearman=float(rank))
        both.append(torch.stack([result.uncertainty.data[0][inside], error[inside]]))
    if both:
        drawn(torch.cat(both, 1))


def drawn(both: torch.Tensor):
    """The uncertainty and the error of voxels, and their medians in tenths of the former."""
    from matplotlib.figure import Figure

    axes = (figure := Figure((4, 3.2), layout="constrained")).subplots()
    axes.hexbin(*both.numpy(), gridsize=40, bins="log", cmap="gray_r", linewidths=0)
    tenths = both[:, both[0].argsort()].tensor_split(10, 1)
    middles = torch.stack([part.median(1).values for part in tenths], 1)
    forget("tenths")
    for number, (deviation, error) in enumerate(middles.T.tolist(), 1):
        add("tenths", "all", number, deviation_mm=deviation, error_mm=error)
    axes.plot(*middles.numpy(), "o-", color="tab:red", label="medians of tenths")
    axes.set(xlabel="deviation of the map (mm)", ylabel="distance from LDDMM's (mm)")
    axes.legend()
    figure.savefig("quicksilver_uncertainty.png", dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {
        "slices": compared_slices,
        "brains": lambda count: compared_brains(count, given.references),
        "contrast": contrasts,
        "hybrid": hybrids,
        "uncertainty": uncertainty,
    }
    parser.add_argument("part", choices=[*parts, "regression", "times", "table"])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--references", type=int, default=3, help="brains with LDDMM too")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    if given.part in parts:
        parts[given.part](given.pairs)
    elif given.part == "regression":
        from quicksilver_regression import regressions

        regressions(given.store, given.steps, given.pairs)
    else:
        import quicksilver_tables as tables

        tables.times() if given.part == "times" else tables.write()


if __name__ == "__main__":
    main()
