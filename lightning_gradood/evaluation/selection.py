"""The detector of a guard: chosen, fitted on all known anomalies, calibrated on normal images that it has not seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from lightning_gradood.core import Refusal, named_seed
from lightning_gradood.detectors import Detector, Fitted, score_in_blocks
from lightning_gradood.evaluation.protocol import DetectionDatasets, Failure, Fits, attempt, fitting_seed
from lightning_gradood.evaluation.settings import DetectionSettings
from lightning_gradood.evaluation.trials import counts_of, fitting_parts, joined, scores_of
from lightning_gradood.metrics import ClassThresholds, auroc, auroc_interval, binomial_interval, conformal_threshold
from lightning_gradood.records import NORMAL, Records, normal_records

_SPREAD = 0.05  # standard deviation of a detector's AUROCs over sources


@dataclass(frozen=True)
class Calibrated:
    """A detector that is ready to guard.

    Args:
        fitted: what it has learnt.
        trained_on: `normal`, or the anomaly sources it was fitted on, joined by `+`.
        calibration: its scores of normal `val` images, none of which it was fitted on or selected by, float64 [n],
            ascending.
        calibration_classes: predicted for them, int64 [n].
        calibrating: ids of those images, in the order of records.
        threshold: conformal, for `false_positive_rate`, the share of normal images that it may flag.
        counts: `train` and `calibration` to their numbers of records.
        classes: predicted class that has enough images for a threshold of its own, or −1 for all others, to `calibration` and
            `test`, numbers of normal images, and `common` and `own`, shares of the latter that are above either threshold.
        metrics: anomaly source to `val/auroc`, its `val/images`, `test/auroc` with its 95 % interval, `test/auroc_low` and
            `test/auroc_high`, and `test/flagged`; `normal` to
            `test/flagged` with the bounds of its binomial 95 % interval, `low` and `high`.
    """

    detector: Detector
    fitted: Fitted
    trained_on: str
    calibration: np.ndarray
    calibration_classes: np.ndarray
    calibrating: list[str]
    threshold: float
    false_positive_rate: float
    counts: dict[str, dict[str, int]]
    metrics: dict[str, dict[str, float]]
    classes: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def val_auroc(self) -> float:
        """Mean over anomaly sources that have images in `val`, those of few images weighing less; NaN where none has.

        A weight is the inverse of a variance: that of an AUROC with n anomalies, at most 1/(4n), and `_SPREAD`² of sources.
        """
        known = [(one["val/auroc"], one["val/images"]) for one in self.metrics.values() if "val/auroc" in one]
        weights = [1 / (_SPREAD**2 + 0.25 / images) for _, images in known]
        return float(np.average([value for value, _ in known], weights=weights)) if known else math.nan


def best_calibrated(
    candidates: Sequence[Detector],
    datasets: DetectionDatasets,
    sources: Sequence[str],
    settings: DetectionSettings,
    failures: Sequence[Failure] = (),
    fits: Fits = {},  # noqa: B006  # read alone
) -> Calibrated:
    """Fit and calibrate every candidate, and return the one with the highest mean AUROC on `val`, the first of equals.

    A detector that needs anomalies is fitted on all sources together. As it selects on `val`, every other normal image
    of `val` is kept from it for calibration. Candidates named in `failures` are skipped; a Refusal if none is left. What
    a one-class detector has learnt from all normal images is taken from `fits`. Under protocol `openood` only the source for
    validation is known, and the others are tested.
    """
    known, tested = list(sources), list(sources)
    if settings.protocol == "openood":
        known, tested = (
            [one for one in sources if one == settings.validation],
            [one for one in sources if one != settings.validation],
        )
    failed: dict[str, tuple[Calibrated | None, str]] = {one.detector: (None, one.reason) for one in failures}
    tried = {
        one.name: failed.get(one.name) or attempt(partial(_calibrated, one, datasets, known, settings, fits))
        for one in candidates
    }
    found = [one for one, _ in tried.values() if one is not None]
    if not found:
        reasons = {reason: name for name, (_, reason) in tried.items()}  # each once, with one that has it
        raise Refusal(" ".join(f"`{name}` cannot be one: {reason}" for reason, name in reasons.items()))
    best = max(found, key=lambda one: one.val_auroc)
    test = datasets.records[NORMAL].where(split="test")
    scores = score_in_blocks(best.fitted, test)
    return replace(
        best, metrics=_tested(best, datasets, tested, scores, settings), classes=_by_class(best, test, scores)
    )


def _calibrated(
    detector: Detector,
    datasets: DetectionDatasets,
    sources: Sequence[str],
    settings: DetectionSettings,
    fits: Fits,
) -> Calibrated:
    usual = not detector.needs_anomalies and datasets.all_normal(*sources)  # all that it looks at are the normal images
    known = datasets.of(detector, *(() if usual else sources))
    train, val = (known.where(split=split) for split in ("train", "val"))
    selecting = calibrating = normal_records(val)
    if detector.needs_anomalies:
        held = np.isin(val.ids, sorted(calibrating.ids)[::2])
        selecting, calibrating = val.keep(~held), val.keep(held)
    parts = fitting_parts(detector, train, selecting, datasets.beside(detector))
    if usual and (NORMAL, detector.name) in fits:
        fitted, _ = fits[NORMAL, detector.name]
    else:
        fitted = detector.fit(joined(detector, parts), fitting_seed(detector, "guard", settings.seed))
    scores = score_in_blocks(fitted, calibrating)
    calibration, order = np.sort(scores), np.argsort(scores, kind="stable")
    vals = {source: scores_of(fitted, datasets.of(detector, source).where(split="val")) for source in sources}
    return Calibrated(
        detector=detector.kept(fitted),
        fitted=fitted,
        trained_on="+".join(sources) if detector.needs_anomalies else NORMAL,
        calibration=calibration,
        calibration_classes=calibrating.column("prediction")[order],
        calibrating=calibrating.ids,
        threshold=conformal_threshold(calibration, settings.false_positive_rate),
        false_positive_rate=settings.false_positive_rate,
        counts={"train": counts_of(parts[0]), "calibration": {"normal": len(calibration)}},
        metrics={
            source: {"val/auroc": auroc(one.scores, one.labels), "val/images": float(one.labels.sum())}
            for source, one in vals.items()
            if one.labels.any()
        },
    )


def _tested(
    chosen: Calibrated, data: DetectionDatasets, sources: Sequence[str], usual: np.ndarray, settings: DetectionSettings
) -> dict[str, dict[str, float]]:
    found = dict(chosen.metrics)
    for source in sources:
        records = data.of(chosen.detector, source).where(split="test")
        test, origins = scores_of(chosen.fitted, records), records.column("origin_id")
        seed = named_seed(settings.seed, source, bits=32)  # as for the same scores in the table of results
        low, high = auroc_interval(test.scores, test.labels, origins, settings.resamples, seed)
        flagged = float(np.mean(test.scores[test.labels == 1] > chosen.threshold))
        about = {"test/auroc": auroc(test.scores, test.labels), "test/auroc_low": low, "test/auroc_high": high}
        found[source] = found.get(source, {}) | about | {"test/flagged": flagged}
    count = int((usual > chosen.threshold).sum())
    low, high = binomial_interval(count, len(usual))
    about = {"test/flagged": count / len(usual), "low": low, "high": high, "test/images": float(len(usual))}
    return found | {NORMAL: about}


def _by_class(chosen: Calibrated, test: Records, scores: np.ndarray) -> dict[int, dict[str, float]]:
    """`Calibrated.classes` from normal test images and their scores."""
    thresholds = ClassThresholds(chosen.calibration, chosen.calibration_classes, chosen.false_positive_rate)
    predictions = test.column("prediction")
    above, own = scores > chosen.threshold, scores > thresholds(predictions)
    large = [one for one in sorted(thresholds.counts) if thresholds.group(one) == [one]]
    found = {}
    for one in [*large, -1] if large else []:
        calibrated, rows = (
            values == one if one >= 0 else ~np.isin(values, large)
            for values in (chosen.calibration_classes, predictions)
        )
        shares = {"common": above[rows].mean(), "own": own[rows].mean()} if rows.any() else {}
        if calibrated.any() or rows.any():
            found[one] = {"calibration": float(calibrated.sum()), "test": float(rows.sum()), **shares}
    return found
