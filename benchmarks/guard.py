"""Latency and throughput of a guard as ratios to the bare classifier's forward pass, and where the time goes.

    OMP_NUM_THREADS=1 python -m benchmarks.guard

Guards are fitted on noise: what they say is nonsense, how long they take is not. `read` is reading the probes from the
network, `score` the detector, `rest` copying, checking and p-values. Bare is one forward pass in evaluation mode without
gradients. `onnxruntime` runs the guard's exported file, where the detector has one, with as many threads as torch.
`adaptive step` is a step of an attack that knows the guard, its gradient by the image, as a ratio to a plain step of
projected gradient descent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import onnxruntime
import torch
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.clock import interleaved
from benchmarks.networks import NETWORKS as CLASSIFIERS
from lightning_gradood.audit import Judgement, Target, margins
from lightning_gradood.core import frozen_network
from lightning_gradood.detectors import (
    MLP,
    Baseline,
    Combined,
    Consistency,
    Detector,
    Energy,
    GradientKNN,
    MahalanobisPP,
    SavedDetector,
    score_in_blocks,
)
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.gradients import AllOnes, Predicted, Uniform, parameter_names
from lightning_gradood.guard import Description, Guard, KnownImages, export_guard, unexportable
from lightning_gradood.networks import MLPSettings, resnet20
from lightning_gradood.probes import LogitsProbe, read_probes
from lightning_gradood.records import NORMAL, SYNTHETIC, Records, normal_records

NETWORKS = {"resnet20": (resnet20, 32), **CLASSIFIERS}
DESIGNS = [AllOnes(), Predicted(), Uniform()]
DETECTORS: dict[str, Callable[[], Detector]] = {
    "energy": Energy,
    "weighted_parts": lambda: DetectionSettings(preset="no_anomalies").build()[1],
    "three parts": lambda: Combined([Baseline(), MahalanobisPP(), Consistency()]),
    "one_pass": lambda: DetectionSettings(DESIGNS, preset="one_pass").build()[2],
    "mlp, all ones": lambda: MLP([AllOnes()], MLPSettings(max_epochs=2)),
    "gradient_knn, all ones": lambda: GradientKNN([AllOnes()]),
    "gradient_knn, three designs": lambda: GradientKNN(DESIGNS),
}


def main() -> None:
    """Time guards of each kind on each network, print a table for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet20", "resnet18"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--normals", type=int, default=200, help="records that detectors are fitted on")
    parser.add_argument("--rounds", type=int, default=9)
    settings = parser.parse_args()
    for name in settings.networks:
        torch.manual_seed(0)
        build, size = NETWORKS[name]
        network = build().eval()
        for batch in settings.batch:
            images = torch.rand(batch, 3, size, size)
            rows = [timed(network, kind, images, settings) for kind in DETECTORS]
            heads = ["guard", "× bare forward", "read", "score", "rest", "ms an image", "onnxruntime", "adaptive step"]
            print(f"\n{name}, batch {batch}\n{tabulate(rows, heads, disable_numparse=True)}")


def timed(network: nn.Module, kind: str, images: Tensor, settings: argparse.Namespace) -> list[str]:
    """Ratio to the bare forward pass, the shares of its parts, and milliseconds an image."""
    guard = fitted(network, DETECTORS[kind](), images, settings.normals)
    records = guard.records(images)

    def bare() -> None:
        with torch.no_grad():
            network(images)

    works = {
        "bare": bare,
        "guard": lambda: guard(images),
        "read": lambda: read_probes(guard.probes, network, images),
        "score": lambda: score_in_blocks(guard.fitted, records),
    }
    if not unexportable(guard.saved):
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
        session = onnxruntime.InferenceSession(export_guard(guard, images, "float32").content, options)
        works["onnx"] = lambda: session.run(None, {"images": images.numpy()})
    target = Target(network, guard.probes, guard.fitted, guard.calibration, 0.05, kind)
    labels = torch.zeros(len(images), dtype=torch.int64)

    def step(known: bool) -> None:
        leaves = images.clone().requires_grad_()
        with frozen_network(network):
            found = target.follow(leaves) if known else Judgement(network(leaves), torch.zeros(()))
            torch.autograd.grad((margins(found.logits, labels) + found.scores).sum(), leaves)

    works |= {"plain step": lambda: step(False), "adaptive step": lambda: step(True)}
    for work in works.values():
        work()
    seconds = interleaved(works, settings.rounds, "cpu")
    whole = seconds["guard"]
    parts = [seconds["read"] / whole, seconds["score"] / whole]
    shares = [f"{100 * share:.0f} %" for share in [*parts, max(1 - sum(parts), 0.0)]]
    exported = f"{1000 * seconds['onnx'] / len(images):.2f}" if "onnx" in seconds else ""
    adaptive = f"{seconds['adaptive step'] / seconds['plain step']:.1f}"
    return [kind, f"{whole / seconds['bare']:.1f}", *shares, f"{1000 * whole / len(images):.2f}", exported, adaptive]


def fitted(network: nn.Module, detector: Detector, images: Tensor, number: int) -> Guard:
    """A guard that was fitted on noise."""
    probes = [*detector.probes, LogitsProbe()]
    names = {probe.name: probe for probe in probes}
    sides = []
    for source, brightness in (("normal", 1.0), ("dark", 0.5)):
        found = [
            read_probes(list(names.values()), network, brightness * torch.rand(8, *images.shape[1:]))
            for _ in range(number // 8)
        ]
        values = {name: torch.cat([one.values[name] for one in found]).numpy() for name in names}
        predictions = torch.cat([one.logits for one in found]).argmax(dim=1).tolist()
        ids = [f"{source}/{row}" for row in range(len(predictions))]
        sides.append(Records.build(ids, source=source, values=values, prediction=predictions))
    own = {name: sides[1].stored(name) for name in names}
    for outlier in detector.needed_outliers:
        kind = f"{SYNTHETIC}{outlier.name}"
        about_them = {"attack": [kind] * len(ids), "linf": [1.0] * len(ids), "origin_id": sides[0].ids}
        sides.append(
            Records.build([f"{kind}/{row}" for row in range(len(ids))], source=NORMAL, values=own, **about_them)
        )
    records = Records.concatenate(sides)
    records = records.with_splits(
        {name: ("train", "val")[row % 2] for side in sides[:2] for row, name in enumerate(side.ids)}
    )
    learnt = detector.fit(records, seed=0)
    normal = normal_records(records)
    about = Description(
        experiment="benchmark", network={}, normalize=None, transform=None, picture="RGB", image_shape=list(images.shape[1:]),
        classes=[], parameters=parameter_names(network), detector_name=detector.name,
        trained_on="normal", counts={}, calibration=np.sort(learnt.score(normal)).tolist(),
        calibration_classes=normal.column("prediction").tolist(),
        false_positive_rate=0.05, threshold=0.0, metrics={}, batch_size=64,
    )  # fmt: skip
    known = KnownImages.of(normal, [probe.name for probe in detector.probes], {})
    return Guard(network, SavedDetector(detector, learnt, 0.0, {}), detector.probes, None, about, known)


if __name__ == "__main__":
    main()
