"""Runs with data like those of a real one, written into a folder and read again, for the tests of this room."""

import tempfile
from pathlib import Path

import numpy as np
import yaml

from lightning_gradood.evaluation import Outcome, SplitScores
from lightning_gradood.metrics import accuracy_at, auroc_interval, best_balanced_threshold, detection_metrics
from lightning_gradood.report import Run, write_guard_summary
from lightning_gradood.report.figure_data import boxes
from lightning_gradood.report.run import ARRAYS, write_arrays, write_results

_BLOCK = ("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias")
_BLOCKS = [f"layer{stage}.{block}.{part}" for stage in (1, 2, 3, 4) for block in (0, 1) for part in _BLOCK]
LAYERS = [f"network.{name}" for name in (*_BLOCK[:3], *_BLOCKS, "fc.weight", "fc.bias")]
NAMES = ("normal", "svhn", "places/lsun")
RNG = np.random.default_rng(0)
NORMS = {name: RNG.lognormal(rank, 1.0, (40, len(LAYERS))) for rank, name in enumerate(NAMES)}
SAMPLES = {name: RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8) for name in NAMES}
PROVENANCE = {"seed": 7, "versions": {"torch": "2.15"}, "records": ["ab12"]}


def outcome(
    source: str = "svhn", detector: str = "mlp", gap: float = 2.0, seed: int = 0, trained_on: str = ""
) -> Outcome:
    """Return an outcome of normally distributed scores, its metrics computed from them."""
    rng, scores, metrics = np.random.default_rng(seed), {}, {}
    counts = {split: {"normal": 60 * n, "anomalous": 30 * n} for split, n in (("train", 2), ("val", 2), ("test", 1))}
    for split in ("val", "test"):
        labels = np.repeat([0, 1], [counts[split]["normal"], counts[split]["anomalous"]])
        ids = [f"{source}/{split}/{row}" for row in range(len(labels))]
        scores[split] = SplitScores(ids, labels, rng.normal(gap * labels))
    val, test = scores["val"], scores["test"]
    threshold = best_balanced_threshold(val.scores, val.labels)
    thresholds = {"val_threshold": threshold} | ({"0.5": 0.0} if detector == "mlp" else {})
    for split, part in scores.items():
        metrics[split] = {"prevalence": 30 / 90, **detection_metrics(part.scores, part.labels)}
        for name, one in thresholds.items():
            at = accuracy_at(part.scores, part.labels, one)
            metrics[split] |= {f"accuracy_at_{name}": at["plain"], f"accuracy_at_{name}_balanced": at["balanced"]}
    curves = [
        {"epoch": epoch, "train/loss": 0.7 * 0.9**epoch, "val/loss": 0.7 * 0.92**epoch, "val/auroc": 1 - 0.5**epoch}
        for epoch in range(3 + seed if detector == "mlp" else 0)
    ]
    interval = auroc_interval(test.scores, test.labels, test.ids, resamples=50)
    return Outcome(source, detector, counts, metrics, interval, threshold, scores, curves, 0.25, trained_on or source)


OUTCOMES = [
    outcome("svhn", "mlp", 3.0, seed=0),
    outcome("places/lsun", "mlp", 1.0, seed=4),
    outcome("svhn", "energy", 1.5, seed=2),
    outcome("places/lsun", "energy", 0.5, seed=3),
]
PLAIN = {"layer_norms": boxes(NORMS, LAYERS), "samples": SAMPLES}


def written(folder, outcomes=None, *, arrays=None, provenance=None, guard=None, config=None, name="cifar_resnet"):
    """Write a run as `detect` does and return its folder; by default of two sources and detectors, with norms and images."""
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, name, outcomes or OUTCOMES, found=PROVENANCE if provenance is None else provenance)
    with (folder / ARRAYS).open("wb") as file:
        write_arrays(PLAIN if arrays is None else arrays, file)
    if guard:
        write_guard_summary(folder, guard)
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def run(outcomes=None, **parts):
    """Read what `written` writes."""
    return Run.read(written(Path(tempfile.mkdtemp()), outcomes, **parts))


def crossed(sources: list[str]) -> list[Outcome]:
    """Return outcomes of each source against each, as `gather` sorts them, and of a one-class detector."""
    found = []
    for tested, source in enumerate(sources):
        for trained, other in enumerate(sources):
            gap = 3.0 if tested == trained else 1.0 + 0.2 * trained - 0.9 * tested
            found.append(outcome(source, "mlp", gap, 3 * tested + trained, trained_on=other))
        found.append(outcome(source, "energy", 1.0, tested, trained_on="normal"))
    return found
