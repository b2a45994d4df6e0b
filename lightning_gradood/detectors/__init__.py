"""Detectors: fit on records, give each record a score, higher = more anomalous.

A `Detector` says which probes it reads, is fitted on the records of the detection splits `train` and `val`, and scores
any records. `evaluate` runs the protocol: fit on `train`, select on `val`, look at `test` once; its `Outcome` holds
every number of one detector on one anomaly source.
"""

from lightning_gradood.detectors.detector import Detector
from lightning_gradood.detectors.evaluate import Outcome, SplitScores, evaluate
from lightning_gradood.detectors.mlp import MLP
from lightning_gradood.detectors.settings import DetectionSettings

__all__ = ["MLP", "DetectionSettings", "Detector", "Outcome", "SplitScores", "evaluate"]
