"""From records to numbers: `evaluate` fits a detector on `train`, chooses its threshold on `val`, looks at `test` once.

An `Outcome` holds all numbers of one detector on one anomaly source; `trials_of` lists a protocol's fits.

    >>> import numpy as np
    >>> from lightning_gradood.detectors import MLP
    >>> from lightning_gradood.evaluation import evaluate
    >>> from lightning_gradood.gradients import AllOnes
    >>> from lightning_gradood.records import Records
    >>> from lightning_gradood.tasks import MLPSettings
    >>> def made_up(source, scale):
    ...     norms = scale * np.random.default_rng(0).lognormal(size=(100, 4))
    ...     return Records.build([f"{source}/{row}" for row in range(100)], source=source, values={"gradients/all_ones": norms})
    >>> records = Records.concatenate([made_up("normal", 1.0), made_up("smoke", 100.0)])
    >>> records = records.with_splits({name: ("train", "val", "test")[row % 3] for row, name in enumerate(records.ids)})
    >>> outcome = evaluate(MLP([AllOnes()], MLPSettings(max_epochs=5)), records, source="smoke", seed=0)
    >>> outcome.counts["test"], outcome.metrics["test"]["auroc"] > 0.9
    ({'normal': 33, 'anomalous': 33}, True)
"""

from lightning_gradood.evaluation.protocol import (
    DetectionDatasets,
    Failure,
    Fits,
    attempt_trial,
    fit_key,
    fit_side_by_side,
    gather,
    notes_on,
    refuse_empty_splits,
    refuse_single,
    remarks_on,
    trials_of,
)
from lightning_gradood.evaluation.selection import Calibrated, best_calibrated
from lightning_gradood.evaluation.settings import DetectionSettings
from lightning_gradood.evaluation.trials import FLAGGED, Outcome, SplitScores, attack_numbers, evaluate

__all__ = [
    "FLAGGED", "Calibrated", "DetectionDatasets", "DetectionSettings", "Failure", "Fits", "Outcome", "SplitScores",
    "attack_numbers", "attempt_trial", "best_calibrated", "evaluate", "fit_key", "fit_side_by_side", "gather", "notes_on",
    "refuse_empty_splits", "refuse_single", "remarks_on", "trials_of",
]  # fmt: skip
