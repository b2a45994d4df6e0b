"""The protocol: fit on `train`, choose the threshold on `val`, look at `test` once."""

import hashlib
import time
from dataclasses import dataclass

import numpy as np

from lightning_gradood.detectors.detector import Detector
from lightning_gradood.metrics import accuracy_at, best_balanced_threshold, bootstrap_auroc, detection_metrics
from lightning_gradood.records import SPLITS, Records

_PASSING = 0.95  # share of normal `val` images that a label-free detector calls normal


@dataclass(frozen=True)
class SplitScores:
    """Scores of one split.

    Args:
        ids: record ids, n of them.
        labels: 0 normal, 1 anomalous, int64 [n].
        scores: higher = more anomalous, float64 [n].
    """

    ids: list[str]
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Every number of one detector on one anomaly source.

    Args:
        source: the anomaly source.
        detector: the detector's name.
        counts: split to `normal` and `anomalous` to number of records.
        metrics: `val` and `test` to metric to value, in [0, 1] but for norms of perturbations.
        auroc_interval: bootstrap 95 % interval of the test AUROC.
        threshold: chosen on `val`; anomalous iff score > threshold.
        scores: `val` and `test` to their scores.
        curves: one dict per epoch, empty if nothing was trained.
        seconds: time to fit and score.
    """

    source: str
    detector: str
    counts: dict[str, dict[str, int]]
    metrics: dict[str, dict[str, float]]
    auroc_interval: tuple[float, float]
    threshold: float
    scores: dict[str, SplitScores]
    curves: list[dict[str, float]]
    seconds: float


def evaluate(detector: Detector, records: Records, *, source: str, seed: int, resamples: int = 1000) -> Outcome:
    """Fit a detector on one anomaly source against the normal source and measure it.

    Args:
        detector: fitted here.
        records: normal and anomalous records of that source, with their `split`.
        source: the anomaly source's name.
        seed: with the source's name it fixes the fit and the bootstrap, whichever process runs them in whatever order.
        resamples: bootstrap resamples of the AUROC's interval.

    Reference:
        science.md's splits; Lee et al. 2022, section 3.2 (40/40/20).
    """
    start = time.perf_counter()
    seed = _seed_of(seed, source)
    curves = detector.fit(records, seed)
    parts = {split: records.where(split=split) for split in SPLITS}
    scores = {
        split: SplitScores(parts[split].ids, parts[split].anomalous, detector.score(parts[split]))
        for split in ("val", "test")
    }
    threshold = _threshold(scores["val"], detector.label_free)
    seconds = time.perf_counter() - start
    test = scores["test"]
    return Outcome(
        source=source,
        detector=detector.name,
        counts={split: _counts(part) for split, part in parts.items()},
        metrics={
            split: _metrics(part, threshold, detector.zero_is_even_odds) | attack_numbers(parts[split])
            for split, part in scores.items()
        },
        auroc_interval=bootstrap_auroc(
            test.scores, test.labels, parts["test"].column("origin_id"), resamples=resamples, seed=seed
        ),
        threshold=threshold,
        scores=scores,
        curves=curves,
        seconds=seconds,
    )


def attack_numbers(records: Records) -> dict[str, float]:
    """What was done to the attacked or corrupted ones of these records; empty if there are none.

    Returns:
        `attack_success` (share of images whose prediction is not their class), `attack_target_hit` for targeted attacks,
        and the mean norms of the perturbations, `attack_l2` and `attack_linf`, pixels in [0, 1].
    """
    rows = records.column("attack") != ""
    if not rows.any():
        return {}
    columns = {name: records.column(name)[rows] for name in ("success", "target_hit", "l2", "linf")}
    known = {name: column for name, column in columns.items() if not any(value is None for value in column)}
    return {f"attack_{name}": float(np.mean(column.astype(np.float64))) for name, column in known.items()}


def _threshold(val: SplitScores, label_free: bool) -> float:
    """Best balanced accuracy, or what lets 95 % of the normal images pass where anomalous ones are not known."""
    if label_free:
        return float(np.quantile(val.scores[val.labels == 0], _PASSING, method="higher"))
    return best_balanced_threshold(val.scores, val.labels)


def _seed_of(seed: int, source: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{source}".encode()).digest()[:4])


def _counts(records: Records) -> dict[str, int]:
    anomalous = int(records.anomalous.sum())
    return {"normal": len(records) - anomalous, "anomalous": anomalous}


def _metrics(split: SplitScores, threshold: float, zero_is_even_odds: bool) -> dict[str, float]:
    metrics = detection_metrics(split.scores, split.labels)
    thresholds = {"val_threshold": threshold} | ({"0.5": 0.0} if zero_is_even_odds else {})  # probability .5 is logit 0
    for name, value in thresholds.items():
        accuracy = accuracy_at(split.scores, split.labels, value)
        metrics |= {f"accuracy_at_{name}": accuracy["plain"], f"accuracy_at_{name}_balanced": accuracy["balanced"]}
    return metrics | {"prevalence": float(split.labels.mean())}
