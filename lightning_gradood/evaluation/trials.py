"""Fitting a detector on `train`, choosing its threshold on `val`, measuring it on `test` once."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_gradood.core import named_seed
from lightning_gradood.detectors import Detector, Fitted, score_in_blocks
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


@dataclass(frozen=True)
class SplitScores:
    """Scores of one split.

    Args:
        ids: of the n records.
        labels: 0 normal, 1 anomalous, int64 [n].
        scores: higher = more anomalous, float64 [n].
    """

    ids: list[str]
    labels: np.ndarray
    scores: np.ndarray


def is_transferred(trained_on: str, source: str) -> bool:
    """Whether a detector was trained on one anomaly source and tested on another.

    Args:
        trained_on: a source, `normal`, `others`, or empty where it is the tested one.
    """
    return trained_on not in ("", source, NORMAL, OTHERS)


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
            `normal` for a one-class detector, empty where unknown.
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
        """Conformal p-value of each score of `val` or `test` against the normal images of `val`, float64 [n].

        For a detector that was selected on `val` they are a little too small.
        """
        val = self.scores["val"]
        return conformal_p_values(val.scores[val.labels == 0], self.scores[split].scores)

    @property
    def transferred(self) -> bool:
        """Whether it was trained on one other anomaly source, as in protocol `cross`."""
        return is_transferred(self.trained_on, self.source)

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
    """Fit a detector on one anomaly source against the normal source and measure it on the same source.

    Args:
        records: normal and anomalous records of that source, with their `split`.
        seed: with the source's name it fixes fit and bootstrap, independent of process and order.
        resamples: bootstrap resamples of the AUROC's interval.
        false_positive_rate: share of normal images that a detector without known anomalies may flag.

    Reference:
        Lee et al. 2022, section 3.2 (40/40/20).
    """
    selected = fit(
        detector,
        records,
        trained_on=source,
        seed=named_seed(seed, source, bits=32),
        false_positive_rate=false_positive_rate,
    )
    return measure(selected, records, source=source, seed=named_seed(seed, source, bits=32), resamples=resamples)


@dataclass(frozen=True)
class Selected:
    """A detector ready for `test`, with the fields of `Outcome` that its fit decides; `attacks` are those of `val`."""

    detector: Detector
    fitted: Fitted
    trained_on: str
    counts: dict[str, dict[str, int]]
    curves: list[dict[str, float]]
    val: SplitScores
    attacks: dict[str, float]
    threshold: float
    seconds: float


@dataclass(frozen=True)
class Learnt:
    """What a detector has learnt in an earlier fit, or why it could not; curves and seconds where none has told them."""

    result: Fitted | Exception
    curves: Sequence[Mapping[str, float]] = ()
    seconds: float = 0.0


def fit(
    detector: Detector,
    records: Records,
    *,
    trained_on: str,
    seed: int,
    false_positive_rate: float = 0.05,
    synthetic: Records | None = None,
    learnt: Learnt | None = None,
) -> Selected:
    """Fit a detector on `train`, select on `val`, without looking at `test`; one-class ones get normal records alone.

    With `learnt`, from the same records, it is not fitted again. Too few normal `val` records for the false-positive
    rate are refused.
    """
    start = time.perf_counter()
    train, val = (records.where(split=split) for split in ("train", "val"))
    one_class = not detector.needs_anomalies
    if one_class:
        train = normal_records(train)
    if learnt is None:
        fitted = detector.fit(known_records(detector, records, synthetic), seed)
        learnt = Learnt(fitted, fitted.curves)
    elif isinstance(learnt.result, Exception):
        raise learnt.result
    else:
        fitted = learnt.result
    scores = SplitScores(val.ids, val.anomalous, score_in_blocks(fitted, val))
    return Selected(
        detector=detector,
        fitted=fitted,
        trained_on=NORMAL if one_class else trained_on,
        counts={"train": _counts(train), "val": _counts(val)},
        curves=[dict(epoch) for epoch in learnt.curves],
        val=scores,
        attacks=attack_numbers(val),
        threshold=_threshold(scores, false_positive_rate if one_class else None),
        seconds=learnt.seconds + time.perf_counter() - start,
    )


def known_records(detector: Detector, records: Records, synthetic: Records | None) -> Records:
    """Records of `train` and `val` that a detector is fitted on in the evaluation; a one-class one gets normal ones."""
    parts = [records.where(split=split) for split in ("train", "val")]
    return fitting_records(detector, parts if detector.needs_anomalies else [*map(normal_records, parts)], synthetic)


def fitting_records(detector: Detector, parts: Sequence[Records], synthetic: Records | None) -> Records:
    """Records that a detector is fitted on: parts of `train` and `val`, and outliers, which may have fewer probes."""
    if synthetic is None:
        return Records.concatenate(parts)
    own = [probe.name for probe in detector.probes]
    return Records.concatenate([part.only(own) for part in (*parts, synthetic)])


def measure(
    selected: Selected,
    records: Records,
    *,
    source: str,
    seed: int,
    resamples: int = 1000,
    conventions: Sequence[str] = (),
) -> Outcome:
    """Measure once on the `test` records of one source; `conventions` add metrics named `<convention>/<metric>`."""
    start, test = time.perf_counter(), records.where(split="test")
    scores = {
        "val": selected.val,
        "test": SplitScores(test.ids, test.anomalous, score_in_blocks(selected.fitted, test)),
    }
    seconds = selected.seconds + time.perf_counter() - start
    metrics = {split: _metrics(part, selected, conventions) for split, part in scores.items()}
    return Outcome(
        source=source,
        trained_on=selected.trained_on,
        detector=selected.detector.name,
        counts=selected.counts | {"test": _counts(test)},
        metrics={
            "val": metrics["val"] | selected.attacks,
            "test": metrics["test"] | flagged_normal(**scores) | attack_numbers(test),
        },
        auroc_interval=auroc_interval(
            scores["test"].scores,
            scores["test"].labels,
            test.column("origin_id"),
            resamples=resamples,
            seed=seed,
        ),
        threshold=selected.threshold,
        scores=scores,
        curves=selected.curves,
        seconds=seconds,
    )


FLAGGED = {"flagged_at_1_percent": 0.01, "flagged_at_5_percent": 0.05}
"""Metrics of `test`: share of normal images with a conformal p-value of at most this, independent of the run's rate."""


def flagged_normal(val: SplitScores, test: SplitScores) -> dict[str, float]:
    """Share of normal `test` images flagged at 1 % and 5 %; absent where `val` has too few normal images for that.

    For a detector that is selected on `val` the share is a little too large.
    """
    calibration, normal = val.scores[val.labels == 0], test.scores[test.labels == 0]
    p_values = conformal_p_values(calibration, normal)
    smallest = 1 / (len(calibration) + 1)
    rates = {name: rate * (1 + 1e-9) for name, rate in FLAGGED.items()}  # 1 / 100 and 0.01 may differ in the last bit
    return {name: float(np.mean(p_values <= rate)) for name, rate in rates.items() if smallest <= rate}


def attack_numbers(records: Records) -> dict[str, float]:
    """Success rate and mean distances of the perturbed images among these records; empty if there are none.

    Returns:
        `attack_success` (share of images whose prediction is not their class), `attack_target_hit` for targeted
        attacks, and mean norms of the perturbations, `attack_l2` and `attack_linf`, of pixels in [0, 1].
    """
    rows = records.column("attack") != ""
    if not rows.any():
        return {}
    columns = {name: records.column(name)[rows] for name in ("success", "target_hit", "l2", "linf")}
    known = {name: column for name, column in columns.items() if not any(value is None for value in column)}
    return {f"attack_{name}": float(np.mean(column.astype(np.float64))) for name, column in known.items()}


def _threshold(val: SplitScores, false_positive_rate: float | None) -> float:
    """Threshold of best balanced accuracy, or the conformal one for a rate where anomalous images are not known."""
    if false_positive_rate is not None:
        return conformal_threshold(val.scores[val.labels == 0], false_positive_rate)
    return best_balanced_threshold(val.scores, val.labels)


def _counts(records: Records) -> dict[str, int]:
    anomalous = int(records.anomalous.sum())
    return {"normal": len(records) - anomalous, "anomalous": anomalous}


def _metrics(split: SplitScores, selected: Selected, conventions: Sequence[str]) -> dict[str, float]:
    metrics = detection_metrics(split.scores, split.labels)
    thresholds = {"val_threshold": selected.threshold}
    if selected.detector.scores_are_logits:
        thresholds["0.5"] = 0.0  # probability .5 is logit 0
    for name, value in thresholds.items():
        accuracy = accuracy_at(split.scores, split.labels, value)
        metrics |= {f"accuracy_at_{name}": accuracy["plain"], f"accuracy_at_{name}_balanced": accuracy["balanced"]}
    for convention in conventions:
        numbers = conventional_metrics(split.scores, split.labels, convention)
        metrics |= {f"{convention}/{metric}": value for metric, value in numbers.items()}
    flagged = float(np.mean(split.scores[split.labels == 0] > selected.threshold))
    return metrics | {"prevalence": float(split.labels.mean()), "false_positive_rate": flagged}
