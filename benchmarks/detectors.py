"""How long each detector takes to fit and score, and how much memory beyond the records it needs.

    OMP_NUM_THREADS=1 python -m benchmarks.detectors
    OMP_NUM_THREADS=1 python -m benchmarks.detectors --records 100000 --detectors LID KNN

Records are made up, half of them anomalous, as wide as those of ResNet-18: 62 norms for each of three label designs, five
feature layers with 1,024 channels in all, 512 penultimate features. 40 % are to fit, 40 % to select, 20 % to score. Each
detector has a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from benchmarks.clock import peak_bytes
from lightning_gradood.detectors import (
    KNN,
    LID,
    MLP,
    ODIN,
    Baseline,
    Detector,
    Energy,
    GradientGaussian,
    GradientKNN,
    GradNorm,
    ImageStatistics,
    Mahalanobis,
)
from lightning_gradood.evaluation import DetectionSettings, evaluate
from lightning_gradood.gradients import AllOnes, Predicted, Uniform
from lightning_gradood.probes import FeatureProbe, GradientProbe, Probe
from lightning_gradood.records import NORMAL, Records

DESIGNS = [AllOnes(), Predicted(), Uniform()]
DETECTORS = {
    "MLP": lambda: MLP(DESIGNS, DetectionSettings().mlp),
    "Baseline": Baseline,
    "Energy": Energy,
    "ODIN": ODIN,
    "Mahalanobis": lambda: Mahalanobis(preprocessing=True, ensemble=True),
    "LID": LID,
    "GradNorm": GradNorm,
    "KNN": KNN,
    "GradientGaussian": lambda: GradientGaussian(DESIGNS),
    "GradientKNN": lambda: GradientKNN(DESIGNS),
    "ImageStatistics": ImageStatistics,
}
LAYERS = {"relu": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
NORMS, PENULTIMATE, CLASSES = 62, 512, 10


def main() -> None:
    """Print a line for each detector."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=20_000, help="of both kinds together")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS))
    settings = parser.parse_args()
    print(
        f"{settings.records} records, seconds by the clock\n{'detector':<18}{'seconds':>9}{'MB beyond the records':>24}"
    )
    for name in settings.detectors:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            seconds, peak = process.submit(measured, name, settings.records).result()
        print(f"{name:<18}{seconds:>9.1f}{peak / 1e6:>24.0f}", flush=True)


def measured(name: str, count: int) -> tuple[float, int]:
    """Seconds to fit and measure one detector, and bytes at its peak beyond the records."""
    detector = DETECTORS[name]()
    records = made_up(detector, count)
    start = time.perf_counter()
    peak = peak_bytes(lambda: evaluate(detector, records, source="smoke", seed=0), "cpu")
    return time.perf_counter() - start, peak


def made_up(detector: Detector, count: int) -> Records:
    """Records with what a detector reads; the anomalous half is shifted and spread a little wider."""
    chance, splits, parts = np.random.default_rng(0), {}, []
    for source, shift in ((NORMAL, 0.0), ("smoke", 0.5)):
        ids = [f"{source}/{row:06d}" for row in range(count // 2)]
        splits |= {name: ("train", "train", "val", "val", "test")[row % 5] for row, name in enumerate(ids)}
        values, names = {}, {}
        for probe in detector.probes:
            width, names[probe.name] = shape(probe)
            values[probe.name] = np.abs(chance.normal(3 + shift, 1 + shift / 4, size=(len(ids), width)))
        predictions = chance.integers(0, CLASSES, len(ids))
        parts.append(Records.build(ids, source=source, values=values, names=names, prediction=predictions))
    return Records.concatenate(parts).with_splits(splits).by_id()


def shape(probe: Probe) -> tuple[int, list[str]]:
    """How wide a probe is on ResNet-18, and its columns' names."""
    if isinstance(probe, GradientProbe):
        return NORMS, []
    if isinstance(probe, FeatureProbe):
        return sum(LAYERS.values()), [
            f"{layer}.{channel}" for layer, width in LAYERS.items() for channel in range(width)
        ]
    for attribute, factor in (("grid", 1), ("magnitudes", len(LAYERS))):
        if hasattr(probe, attribute):
            return factor * len(getattr(probe, attribute)), []
    return {"logits": CLASSES, "image_statistics": 4}.get(probe.name, PENULTIMATE), []


if __name__ == "__main__":
    main()
