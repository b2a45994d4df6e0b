"""Fitting a detector on `train`, choosing its threshold on `val`, measuring it on `test` once."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_gradood.core import named_seed
from lightning_gradood.detectors import Detector, Fitted, score_in_blocks
from lightning_gradood.evaluation.settings import DetectionSettings
from lightning_gradood.metrics import (
    accuracy_at,
    auroc_interval,
    best_balanced_threshold,
    conformal_p_values,
    conformal_threshold,
    conventional_metrics,
    detection_metrics,
)
from lightning_gradood.records import NORMAL, Records, normal_records

OTHERS = "others"  # in place of a source: trained on all but the tested one
VALIDATION = "validation"  # trained on the one source that may be known

FLAGGED = {"flagged_at_1_percent": 0.01, "flagged_at_5_percent": 0.05}
"""Metrics of `test`: share of normal images with a conformal p-value of at most this, independent of the run's rate."""


@dataclass(frozen=True)
class SplitScores:
    """Ids of the n records of a split, labels (0 normal, 1 anomalous, int64 [n]) and scores float64 [n]."""

    ids: list[str]
    labels: np.ndarray
    scores: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        """Scores of the normal images."""
        return np.asarray(self.scores[self.labels == 0])


@dataclass(frozen=True)
class Outcome:
    """Every number of one detector on one anomaly source.

    Args:
        source: the anomaly source whose `test` it is measured on.
        counts: split to `normal` and `anomalous` to number of records.
        metrics: `val` and `test` to metric to value, in [0, 1] but for norms of perturbations.
        auroc_interval: 95 % interval of the test AUROC, see `metrics.auroc_interval`.
        threshold: chosen on `val`; anomalous iff score > threshold.
        scores: of `val` and `test`.
        curves: one dict per epoch, empty if nothing was trained.
        seconds: time to fit and score.
        trained_on: the anomaly source whose `train` and `val` it was fitted on; `others` for all but the tested one,
            `validation` for the one that may be known, `normal` for a one-class detector, empty where unknown.
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
    trained_on: str = ""

    def p_values(self, split: str) -> np.ndarray:
        """Conformal p-value of each score of `val` or `test` against the normal images of `val`, float64 [n]."""
        return conformal_p_values(self.scores["val"].normal, self.scores[split].scores)

    @property
    def transferred(self) -> bool:
        """Whether it was trained on one other anomaly source, as in protocol `cross`."""
        return self.trained_on not in ("", self.source, NORMAL, OTHERS, VALIDATION)

    @property
    def label(self) -> str:
        """The detector's name, with a source it was transferred from (`mlp@fgsm`); with `source` unique in a run."""
        return f"{self.detector}@{self.trained_on}" if self.transferred else self.detector


def evaluate(
    detector: Detector,
    records: Records,
    *,
    source: str,
    seed: int,
    resamples: int = 1000,
    false_positive_rate: float = 0.05,
) -> Outcome:
    """Fit a detector on one anomaly source and measure it on the same source (Lee et al. 2022, section 3.2).

    Args:
        records: normal and anomalous records of that source, with their `split`.
        seed: with the source's name it fixes fit and bootstrap, independent of process and order.
        resamples: bootstrap resamples of the AUROC's interval.
        false_positive_rate: share of normal images that a detector without known anomalies may flag.
    """
    settings = DetectionSettings(resamples=resamples, seed=seed, false_positive_rate=false_positive_rate)
    fitted, half = fit(detector, records, source, named_seed(seed, source, bits=32), settings)
    return measure(detector, fitted, half, records, source, settings)


def fit(
    detector: Detector,
    records: Records,
    trained_on: str,
    seed: int,
    settings: DetectionSettings,
    beside: Records | None = None,
    learnt: tuple[Fitted, float] | None = None,
) -> tuple[Fitted, Outcome]:
    """Fit a detector on `train`, select on `val`, without looking at `test`; one-class ones get normal records alone.

    `learnt`, from the same records and in so many seconds, is not learnt again; see `fitting_parts` for `beside`. Returns
    an outcome without numbers of `test`, which `measure` adds.
    """
    start, val = time.perf_counter(), records.where(split="val")
    parts = fitting_parts(detector, records.where(split="train"), val, beside)
    fitted, seconds = learnt or (detector.fit(joined(detector, parts), seed), 0.0)
    scores = scores_of(fitted, val)
    if detector.needs_anomalies:
        threshold = best_balanced_threshold(scores.scores, scores.labels)
    else:
        trained_on, threshold = NORMAL, conformal_threshold(scores.normal, settings.false_positive_rate)
    return fitted, Outcome(
        source="",
        detector=detector.name,
        counts={"train": counts_of(parts[0]), "val": counts_of(val)},
        metrics={"val": _metrics(detector, scores, threshold, settings) | attack_numbers(val)},
        auroc_interval=(math.nan, math.nan),
        threshold=threshold,
        scores={"val": scores},
        curves=[dict(epoch) for epoch in fitted.curves],
        seconds=seconds + time.perf_counter() - start,
        trained_on=trained_on,
    )


def fitting_parts(detector: Detector, train: Records, val: Records, beside: Records | None) -> list[Records]:
    """What a detector is fitted on, `train` first, then `val` and synthetic outliers; one-class ones get normal records alone.

    `beside` are the outliers that it needs, or training images that take the place of normal `train` records.
    """
    known = [train, val] if detector.needs_anomalies else [normal_records(train), normal_records(val)]
    if beside is None:
        return known
    return [*known, beside] if detector.needed_outliers else [beside, known[1]]


def joined(detector: Detector, parts: Sequence[Records]) -> Records:
    """The parts one after the other, with the probes that a detector reads."""
    return Records.concatenate([one.only([probe.name for probe in detector.probes]) for one in parts])


def measure(
    detector: Detector, fitted: Fitted, half: Outcome, records: Records, source: str, settings: DetectionSettings
) -> Outcome:
    """Measure once on the `test` records of one source; `half` is the outcome of `fit`."""
    start, records = time.perf_counter(), records.where(split="test")
    test = scores_of(fitted, records)
    seconds = half.seconds + time.perf_counter() - start
    about_test = flagged_normal(half.scores["val"], test) | attack_numbers(records)
    origins, seed = records.column("origin_id"), named_seed(settings.seed, source, bits=32)
    return replace(
        half,
        source=source,
        counts=half.counts | {"test": counts_of(records)},
        metrics=half.metrics | {"test": _metrics(detector, test, half.threshold, settings) | about_test},
        auroc_interval=auroc_interval(test.scores, test.labels, origins, settings.resamples, seed),
        scores=half.scores | {"test": test},
        seconds=seconds,
    )


def full_spectrum(outcome: Outcome, shifted: np.ndarray) -> Outcome:
    """Add metrics `full_spectrum/<metric>` of `test`, in OpenOOD's arithmetic, for which scores `shifted` [m] are normal.

    Reference:
        Yang, Zhou, Liu 2022, "Full-Spectrum Out-of-Distribution Detection"; OpenOOD 1.5's `fsood`.
    """
    test = outcome.scores["test"]
    labels = np.concatenate([test.labels, np.zeros(len(shifted), dtype=np.int64)])
    numbers = conventional_metrics(np.concatenate([test.scores, shifted]), labels, "openood")
    found = outcome.metrics["test"] | {f"full_spectrum/{metric}": value for metric, value in numbers.items()}
    return replace(outcome, metrics=outcome.metrics | {"test": found})


def scores_of(fitted: Fitted, records: Records) -> SplitScores:
    """Score the records of one split."""
    return SplitScores(records.ids, records.anomalous, score_in_blocks(fitted, records))


def flagged_normal(val: SplitScores, test: SplitScores) -> dict[str, float]:
    """Share of normal `test` images flagged at 1 % and 5 %; absent where `val` has too few normal images for that."""
    p_values = conformal_p_values(val.normal, test.normal)
    smallest = 1 / (len(val.normal) + 1)
    rates = {name: rate * (1 + 1e-9) for name, rate in FLAGGED.items()}  # 1 / 100 and 0.01 may differ in the last bit
    return {name: float(np.mean(p_values <= rate)) for name, rate in rates.items() if smallest <= rate}


def attack_numbers(records: Records) -> dict[str, float]:
    """Numbers of the perturbed images among these records; empty if there are none.

    `attack_success`, the share whose prediction is not their class, `attack_target_hit` for targeted attacks, and mean
    norms of the perturbations, `attack_l2` and `attack_linf`, of pixels in [0, 1].
    """
    rows = records.column("attack") != ""
    if not rows.any():
        return {}
    columns = {name: records.column(name)[rows] for name in ("success", "target_hit", "l2", "linf")}
    known = {name: column for name, column in columns.items() if not any(value is None for value in column)}
    return {f"attack_{name}": float(np.mean(column.astype(np.float64))) for name, column in known.items()}


def counts_of(records: Records) -> dict[str, int]:
    """Numbers of `normal` and `anomalous` records."""
    anomalous = int(records.anomalous.sum())
    return {"normal": len(records) - anomalous, "anomalous": anomalous}


def _metrics(detector: Detector, split: SplitScores, threshold: float, settings: DetectionSettings) -> dict[str, float]:
    flagged = {"false_positive_rate": float(np.mean(split.normal > threshold))}
    if len(split.normal) == len(split.scores):  # no anomalies to validate on
        return flagged
    metrics = detection_metrics(split.scores, split.labels)
    thresholds = {"val_threshold": threshold}
    if detector.scores_are_logits:
        thresholds["0.5"] = 0.0  # probability .5 is logit 0
    for name, value in thresholds.items():
        accuracy = accuracy_at(split.scores, split.labels, value)
        metrics |= {f"accuracy_at_{name}": accuracy["plain"], f"accuracy_at_{name}_balanced": accuracy["balanced"]}
    for convention in settings.metrics:
        numbers = conventional_metrics(split.scores, split.labels, convention)
        metrics |= {f"{convention}/{metric}": value for metric, value in numbers.items()}
    return metrics | {"prevalence": float(split.labels.mean())} | flagged
