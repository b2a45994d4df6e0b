"""Reports with data like those of a real run, for the tests of this room."""

import numpy as np

from lightning_gradood.evaluation import Outcome, SplitScores
from lightning_gradood.metrics import accuracy_at, best_balanced_threshold, bootstrap_auroc, detection_metrics
from lightning_gradood.report import DetectionReport

LAYERS = [
    f"network.{name}"
    for name in (
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
        *(
            f"layer{stage}.{block}.{part}"
            for stage in (1, 2, 3, 4)
            for block in (0, 1)
            for part in ("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias")
        ),
        "fc.weight",
        "fc.bias",
    )
]


def outcome(source: str = "svhn", detector: str = "mlp", gap: float = 2.0, seed: int = 0) -> Outcome:
    """Return an outcome of normally distributed scores, its metrics computed from them."""
    rng = np.random.default_rng(seed)
    counts = {
        "train": {"normal": 120, "anomalous": 60},
        "val": {"normal": 120, "anomalous": 60},
        "test": {"normal": 60, "anomalous": 30},
    }
    scores = {}
    for split in ("val", "test"):
        labels = np.repeat([0, 1], [counts[split]["normal"], counts[split]["anomalous"]])
        ids = [f"{source}/{split}/{row}" for row in range(len(labels))]
        scores[split] = SplitScores(ids, labels, rng.normal(gap * labels))
    threshold = best_balanced_threshold(scores["val"].scores, scores["val"].labels)
    test = scores["test"]
    return Outcome(
        source=source,
        detector=detector,
        counts=counts,
        metrics={split: _metrics(part, threshold, detector) for split, part in scores.items()},
        auroc_interval=bootstrap_auroc(test.scores, test.labels, test.ids, resamples=50),
        threshold=threshold,
        scores=scores,
        curves=[
            {"epoch": epoch, "train/loss": 0.7 * 0.9**epoch, "val/loss": 0.7 * 0.92**epoch, "val/auroc": 1 - 0.5**epoch}
            for epoch in range(3 + seed)
        ]
        if detector == "mlp"
        else [],
        seconds=0.25,
    )


def report() -> DetectionReport:
    """Return a report of two sources and two detectors, with norms and images."""
    rng = np.random.default_rng(0)
    outcomes = [
        outcome("svhn", "mlp", 3.0, seed=0),
        outcome("places/lsun", "mlp", 1.0, seed=4),
        outcome("svhn", "energy", 1.5, seed=2),
        outcome("places/lsun", "energy", 0.5, seed=3),
    ]
    names = ("normal", "svhn", "places/lsun")
    return DetectionReport(
        experiment="cifar_resnet",
        outcomes=outcomes,
        norms={name: rng.lognormal(rank, 1.0, (40, len(LAYERS))) for rank, name in enumerate(names)},
        layer_names=LAYERS,
        samples={name: rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8) for name in names},
        manifest={"train": ["svhn/0"]},
        provenance={"seed": 7, "versions": {"torch": "2.15"}, "records": ["ab12"]},
    )


def _metrics(part: SplitScores, threshold: float, detector: str) -> dict[str, float]:
    metrics = dict(detection_metrics(part.scores, part.labels))
    at = accuracy_at(part.scores, part.labels, threshold)
    metrics["accuracy_at_val_threshold"] = at["plain"]
    metrics["accuracy_at_val_threshold_balanced"] = at["balanced"]
    if detector == "mlp":
        at = accuracy_at(part.scores, part.labels, 0.0)
        metrics["accuracy_at_0.5"] = at["plain"]
        metrics["accuracy_at_0.5_balanced"] = at["balanced"]
        metrics["prevalence"] = float(part.labels.mean())
    return metrics
