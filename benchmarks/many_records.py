"""What detectors take that are fitted on a classifier's training images: seconds, memory, time of a score, size of a file.

    OMP_NUM_THREADS=1 python -m benchmarks.many_records
    OMP_NUM_THREADS=1 python -m benchmarks.many_records --records 50000 100000 200000 --detectors KNN MahalanobisPP

Records are made up: training images in `train`, with labels, float32 features of 1,000 classes and logits of a linear head,
and beside them a few normal and anomalous ones in `val` and `test`. Seconds and memory are those of a trial as `detect` runs
it: fit, scores of `val` and `test`, metrics. Memory is the peak above the records, those of the probes that the detector
reads; a score is one of a block of 32, as `detect` and guards compute them; the file is what `save_detector` writes. LID,
which knows anomalies, is fitted on records that are half of each kind. Each detector has a process of its own. The last line
of a detector follows from the others, of which there must be two sizes: seconds and memory on a straight line, or the most
that was measured if that falls.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pyarrow as pa

from benchmarks.clock import peak_bytes
from lightning_gradood import detectors
from lightning_gradood.core import pack
from lightning_gradood.detectors import Detector, Fitted, score_in_blocks
from lightning_gradood.evaluation import DetectionSettings, Outcome
from lightning_gradood.evaluation.trials import fit, measure
from lightning_gradood.records import NORMAL, LinearHead, Records

ALONE = [detectors.Baseline(), detectors.MahalanobisPP(), detectors.Consistency()]
DETECTORS: dict[str, Callable[[], Detector]] = {
    **{name: getattr(detectors, name) for name in (
        "MaxLogit", "GEN", "KLMatching", "ReAct", "ASH", "SCALE", "AdaSCALE", "DICE", "SHE", "KNN", "MahalanobisPP",
        "MahalanobisPPPaper", "RMDS", "RMDSPP", "ViM", "FDBD", "NNGuide", "NCI", "NAC", "GROOD", "GradientGaussian",
        "GradientKNN", "LID",
    )},
    "Combined": lambda: detectors.Combined(ALONE),
}  # fmt: skip
SCORED = 256
NORMS, VIEWS = 161, 10  # of ResNet-50; of the probe of views
LAYERS = {"maxpool": 64, "layer1": 256, "layer2": 512, "layer3": 1024}  # of ResNet-50, before its last, by channels
IMAGENET = 1_281_167  # training images


def main() -> None:
    """Print a line for each detector and number of records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[20_000])
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS))
    given = parser.parse_args()
    print(f"{given.features} features, {given.classes} classes, seconds of the CPU")
    print(f"{'detector':<20}{'records':>9}{'fit s':>9}{'GiB':>7}{'ms/image':>10}{'file MB':>9}")
    for name in given.detectors:
        rows = []
        for count in given.records:
            with ProcessPoolExecutor(1, mp_context=get_context("fork")) as process:
                seconds, peak, each, size = process.submit(
                    measured, name, count, given.features, given.classes
                ).result()
            rows.append((seconds, peak / 2**30))
            print(f"{name:<20}{count:>9}{seconds:>9.1f}{peak / 2**30:>7.2f}{each:>10.2f}{size / 1e6:>9.1f}", flush=True)
        if len({*given.records}) > 1:
            seconds, peak = np.maximum(np.polyval(np.polyfit(given.records, rows, 1), IMAGENET), np.max(rows, axis=0))
            print(f"{name:<20}{IMAGENET:>9}{seconds:>9.0f}{peak:>7.1f}  by a straight line", flush=True)


def measured(name: str, count: int, features: int, classes: int) -> tuple[float, int, float, int]:
    """CPU seconds of a trial, its peak bytes above the records, CPU milliseconds of a score, bytes of the file."""
    detector, found, settings = DETECTORS[name](), list[tuple[Fitted, Outcome]](), DetectionSettings()
    needy = detector.needs_anomalies
    training = [made_up(detector, count // (1 + needy), features, classes, one) for one in [NORMAL, "ood"][: 1 + needy]]
    few = [made_up(detector, SCORED, features, classes, one, ("val", "test")) for one in (NORMAL, "ood")]
    tested = Records.concatenate([*(training if needy else []), *few])

    def trial() -> None:
        found.append(fit(detector, tested, "ood", 0, settings, None if needy else training[0]))
        measure(detector, *found[0], tested, "ood", settings)

    start = time.process_time()
    peak = peak_bytes(trial, "cpu")
    seconds, fitted = time.process_time() - start, found[0][0]
    score_in_blocks(fitted, few[0])  # what is computed once
    start = time.process_time()
    score_in_blocks(fitted, few[0])
    return seconds, peak, 1000 * (time.process_time() - start) / SCORED, len(pack(fitted))


def made_up(
    detector: Detector, count: int, features: int, classes: int, source: str, splits: tuple[str, ...] = ("train",)
) -> Records:
    """Records of a source with what a detector reads; the classes of anomalous ones lie a little elsewhere."""
    chance = np.random.default_rng([source != NORMAL, *map(ord, splits[0])])
    centres = np.random.default_rng(0).gamma(0.5, 1.0, size=(classes, features)).astype(np.float32)
    head = LinearHead((centres - centres.mean(axis=0)).astype(np.float64) / 20, np.zeros(classes))
    labels, weight = chance.integers(0, classes, count), head.weight.astype(np.float32).T
    centres += np.float32(0.3 * (source != NORMAL))
    layers = {**LAYERS, "penultimate": features}
    widths = {"logits": classes, "views/mirror+blur": VIEWS, "features/layers": sum(layers.values())}
    values, names = {}, {}
    for probe in detector.probes:
        width = features if probe.name.startswith(("features/", "neurons/")) else NORMS
        kind = np.float64 if probe.name.startswith("gradients/") else np.float32
        values[probe.name] = np.empty((count, widths.get(probe.name, width)), kind)
        names["features/layers"] = [f"{layer}.{channel}" for layer, wide in layers.items() for channel in range(wide)]
    for start in range(0, count, 2000):
        rows = slice(start, start + 2000)
        noise = chance.standard_normal((len(labels[rows]), features), np.float32)
        drawn = np.maximum(centres[labels[rows]] + np.float32(0.3) * noise, 0)
        for name, column in values.items():
            if name == "logits":
                column[rows] = drawn @ weight
            elif name.startswith("neurons/"):
                column[rows] = (drawn - drawn.mean()) / 1000
            elif name.startswith("features/"):
                column[rows] = np.tile(drawn, -(-column.shape[1] // features))[:, : column.shape[1]]
            else:
                column[rows] = np.exp(chance.normal(size=column[rows].shape) - 20)
    ids = [f"{source}/{splits[0]}{row:07d}" for row in range(count)]
    table = Records.build(ids, source=source, values=values, names=names, label=labels, prediction=labels).table
    split = [splits[row * len(splits) // count] for row in range(count)]
    return Records(table.append_column("split", pa.array(split))).with_head(head)


if __name__ == "__main__":
    main()
