"""From records to numbers: which images a detector is fitted on, how it is tried, and what comes out.

>>> from lightning_gradood.evaluation import DetectionSettings
>>> DetectionSettings().protocol
'each'
"""

from lightning_gradood.evaluation.outcome import Outcome, SplitScores
from lightning_gradood.evaluation.protocol import (
    DetectionDatasets,
    Trial,
    gather_outcomes,
    refuse_single,
    run_trial,
    trials_of,
    trials_of_process,
)
from lightning_gradood.evaluation.settings import DetectionSettings
from lightning_gradood.evaluation.trials import attack_numbers, evaluate

__all__ = [
    "DetectionDatasets",
    "DetectionSettings",
    "Outcome",
    "SplitScores",
    "Trial",
    "attack_numbers",
    "evaluate",
    "gather_outcomes",
    "refuse_single",
    "run_trial",
    "trials_of",
    "trials_of_process",
]
