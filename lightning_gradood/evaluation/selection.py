"""The detector of a guard: chosen, fitted on all known anomalies, calibrated on normal images that it has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import Detector, Fitted, score_in_blocks
from lightning_gradood.evaluation.failures import Failure, attempt
from lightning_gradood.evaluation.protocol import DetectionDatasets, fitting_seed
from lightning_gradood.evaluation.trials import fitting_records
from lightning_gradood.metrics import auroc, binomial_interval, conformal_threshold
from lightning_gradood.records import NORMAL, Records, normal_records

GUARD = "guard"  # in place of a source: trained on all of them, for a guard


@dataclass(frozen=True)
class Calibrated:
    """A detector that is ready to guard.

    Args:
        fitted: what it has learnt.
        trained_on: `normal`, or the anomaly sources it was fitted on, joined by `+`.
        calibration: its scores of normal `val` images, none of which it was fitted on or selected by, float64 [n],
            ascending.
        threshold: conformal, for `false_positive_rate`.
        false_positive_rate: share of normal images that it may flag.
        counts: `train` and `calibration` to their numbers of records.
        metrics: anomaly source to `val/auroc`, `test/auroc` and `test/flagged`; `normal` to `test/flagged` with the
            bounds of its binomial 95 % interval, `low` and `high`.
    """

    detector: Detector
    fitted: Fitted
    trained_on: str
    calibration: np.ndarray
    threshold: float
    false_positive_rate: float
    counts: dict[str, dict[str, int]]
    metrics: dict[str, dict[str, float]]

    @property
    def val_auroc(self) -> float:
        """Mean over anomaly sources."""
        return float(np.mean([found["val/auroc"] for name, found in self.metrics.items() if name != NORMAL]))


def best_calibrated(
    candidates: Sequence[Detector],
    datasets: DetectionDatasets,
    sources: Sequence[str],
    *,
    seed: int,
    false_positive_rate: float,
    failures: Sequence[Failure] = (),
) -> Calibrated:
    """Fit and calibrate every candidate, and return the one with the highest mean AUROC on `val`, the first of equals.

    A detector that needs anomalies is fitted on all sources together. As it selects on `val`, every other normal image
    of `val` is kept from it for calibration. Candidates named in `failures` are skipped.

    Raises:
        Refusal: none of them can be fitted and calibrated.
    """
    failed: dict[str, tuple[Calibrated | None, str]] = {one.detector: (None, one.reason) for one in failures}
    tried = {
        one.name: failed.get(one.name)
        or attempt(partial(_calibrated, one, datasets, sources, seed, false_positive_rate))
        for one in candidates
    }
    found = [one for one, _ in tried.values() if one is not None]
    if not found:
        reasons = {reason: name for name, (_, reason) in tried.items()}  # each once, with one that has it
        if len(reasons) == 1 < len(tried):
            raise Refusal(*reasons)
        raise Refusal(" ".join(f"`{name}` cannot be one: {reason}" for reason, name in reasons.items()))
    best = max(found, key=lambda one: one.val_auroc)
    return replace(best, metrics=_tested(best, datasets, sources))


def _calibrated(
    detector: Detector, datasets: DetectionDatasets, sources: Sequence[str], seed: int, rate: float
) -> Calibrated:
    known = datasets.of(*sources)
    train, val = (known.where(split=split) for split in ("train", "val"))
    normal_val = normal_records(val)
    if detector.needs_anomalies:
        held = set(sorted(normal_val.ids)[::2])
        selecting, calibrating = _parts(val, held)
    else:
        train, selecting, calibrating = normal_records(train), normal_val, normal_val
    records = fitting_records(detector, [train, selecting], datasets.synthetic(detector))
    fitted = detector.fit(records, fitting_seed(detector, GUARD, seed))
    calibration = np.sort(score_in_blocks(fitted, normal_records(calibrating)))
    threshold = conformal_threshold(calibration, rate)
    return Calibrated(
        detector=detector,
        fitted=fitted,
        trained_on="+".join(sources) if detector.needs_anomalies else NORMAL,
        calibration=calibration,
        threshold=threshold,
        false_positive_rate=rate,
        counts={"train": _counts(train), "calibration": {"normal": len(calibration)}},
        metrics={source: {"val/auroc": _auroc(fitted, datasets.of(source))} for source in sources},
    )


def _parts(val: Records, held: set[str]) -> tuple[Records, Records]:
    rows = np.array([name in held for name in val.ids])
    return Records(val.table.filter(~rows)), Records(val.table.filter(rows))


def _auroc(fitted: Fitted, records: Records) -> float:
    val = records.where(split="val")
    return auroc(score_in_blocks(fitted, val), val.anomalous)


def _tested(chosen: Calibrated, datasets: DetectionDatasets, sources: Sequence[str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for source in sources:
        test = datasets.of(source).where(split="test")
        scores, labels = score_in_blocks(chosen.fitted, test), test.anomalous
        flagged = float(np.mean(scores[labels == 1] > chosen.threshold))
        found[source] = chosen.metrics[source] | {"test/auroc": auroc(scores, labels), "test/flagged": flagged}
    return found | {NORMAL: _flagged_normal(chosen.fitted, chosen.threshold, datasets.records)}


def _flagged_normal(fitted: Fitted, threshold: float, records: Mapping[str, Records]) -> dict[str, float]:
    normal = records[NORMAL].where(split="test")
    flagged = int((score_in_blocks(fitted, normal) > threshold).sum())
    low, high = binomial_interval(flagged, len(normal))
    return {"test/flagged": flagged / len(normal), "low": low, "high": high, "test/images": float(len(normal))}


def _counts(records: Records) -> dict[str, int]:
    anomalous = int(records.anomalous.sum())
    return {"normal": len(records) - anomalous, "anomalous": anomalous}
