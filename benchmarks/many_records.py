"""What detectors take that are fitted on a classifier's training images: seconds, memory, time of a score, size of a file.

    OMP_NUM_THREADS=1 python -m benchmarks.many_records
    OMP_NUM_THREADS=1 python -m benchmarks.many_records --records 50000 100000 200000 --detectors KNN MahalanobisPP

Records are made up, normal and all in `train`, with labels, float32 features of 1,000 classes and logits of a linear head.
Memory is the peak of `fit` above the records, those of the probes that the detector reads; scores are in blocks of 32, as
`detect` and guards compute them; the file is what `save_detector` writes. Each detector has a process of its own.
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
from lightning_gradood.records import LinearHead, Records

ALONE = [detectors.Baseline(), detectors.MahalanobisPP(), detectors.Consistency()]
DETECTORS: dict[str, Callable[[], Detector]] = {
    **{name: getattr(detectors, name) for name in (
        "MaxLogit", "GEN", "KLMatching", "ReAct", "ASH", "SCALE", "AdaSCALE", "DICE", "SHE", "KNN", "MahalanobisPP",
        "MahalanobisPPPaper", "RMDS", "RMDSPP", "ViM", "FDBD", "NNGuide", "NCI", "GradientGaussian", "GradientKNN",
    )},
    "Combined": lambda: detectors.Combined(ALONE),
}  # fmt: skip
SCORED = 256
NORMS, VIEWS = 161, 10  # of ResNet-50; of the probe of views


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
        for count in given.records:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                found = process.submit(measured, name, count, given.features, given.classes).result()
            seconds, peak, each, size = found
            print(f"{name:<20}{count:>9}{seconds:>9.1f}{peak / 2**30:>7.2f}{each:>10.2f}{size / 1e6:>9.1f}", flush=True)


def measured(name: str, count: int, features: int, classes: int) -> tuple[float, int, float, int]:
    """CPU seconds of a fit, its peak bytes above the records, CPU milliseconds of a score, bytes of the file."""
    detector, fitted = DETECTORS[name](), list[Fitted]()
    records = made_up(detector, count, features, classes)
    start = time.process_time()
    peak = peak_bytes(lambda: fitted.append(detector.fit(records, 0)), "cpu")
    seconds = time.process_time() - start
    some = Records(records.table.slice(0, SCORED).combine_chunks())
    score_in_blocks(fitted[0], some)  # what is computed once
    start = time.process_time()
    score_in_blocks(fitted[0], some)
    return seconds, peak, 1000 * (time.process_time() - start) / SCORED, len(pack(fitted[0]))


def made_up(detector: Detector, count: int, features: int, classes: int) -> Records:
    """Normal `train` records with what a detector reads."""
    chance = np.random.default_rng(0)
    centres = chance.gamma(0.5, 1.0, size=(classes, features)).astype(np.float32)
    head = LinearHead((centres - centres.mean(axis=0)).astype(np.float64) / 20, np.zeros(classes))
    labels = chance.integers(0, classes, count)
    weight, widths = head.weight.astype(np.float32).T, {"views/mirror+blur": VIEWS}
    values = {}
    for probe in detector.probes:
        width = classes if probe.name == "logits" else features if probe.name.startswith("features/") else NORMS
        kind = np.float64 if probe.name.startswith("gradients/") else np.float32
        values[probe.name] = np.empty((count, widths.get(probe.name, width)), kind)
    for start in range(0, count, 2000):
        rows = slice(start, start + 2000)
        drawn = np.maximum(centres[labels[rows]] + chance.normal(size=(len(labels[rows]), features), scale=0.3), 0)
        for name, column in values.items():
            if name == "logits":
                column[rows] = drawn.astype(np.float32) @ weight
            elif name.startswith("features/"):
                column[rows] = drawn
            else:
                column[rows] = np.exp(chance.normal(size=column[rows].shape) - 20)
    ids = [f"normal/{row:07d}" for row in range(count)]
    records = Records.build(ids, source="normal", values=values, label=labels, prediction=labels)
    table = records.table.append_column("split", pa.array(["train"] * count))
    return Records(table).with_head(head)


if __name__ == "__main__":
    main()
