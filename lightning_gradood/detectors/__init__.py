"""Detectors: fit on records, give each record a score, higher = more anomalous.

A `Detector` says which probes it reads. Fitted on the records of the detection splits `train` and `val` it returns what
it has learnt, a `Fitted`, which scores any records; the room `evaluation` fits, selects and measures them.

    >>> import numpy as np
    >>> from lightning_gradood.detectors import Energy
    >>> from lightning_gradood.records import Records
    >>> records = Records.build(["a/0", "a/1"], source="a", values={"logits": np.array([[9.0, 0.0], [1.0, 1.0]])})
    >>> bool(np.diff(Energy().score(records)) > 0)  # the second image is the less certain one
    True

Beside the paper's `MLP` stand the field's other methods, each one class that `--detection.detectors` takes by name,
such as `--detection.detectors '[Baseline, Energy, {class_path: KNN, init_args: {k: 20}}]'`. They read the same pass
over the images, and are measured on the same records; docs/compare.md names their papers. By families, a file each:

- formulas that learn nothing (`FixedDetector` is their base): `output_scores`;
- fitted on normal images alone (`needs_anomalies` is false), with a quantile of normal `val` scores as threshold: on
  features (`neighbours`, `gaussians`, `mahalanobis`, `class_patterns`; with the last layer's weights `last_layer`,
  `activations`), gradients (`grood`, `nac`, `gradpca`), views of the image (`consistency`) and outliers made of normal
  images (`synthetic_outliers`), or several of these at once (`combined`);
- settings chosen on `val`: `ODIN`, `Tuned`; regressions on `train` as well: `LID`, `Mahalanobis` (with `ensemble`),
  `KnownAnomalies` (beside a detector for anomalies of any kind), and `ImageStatistics`, an audit without the network:
  where it does well, a source is easy for a reason other than what the images show;
- any detector of pytorch-ood, through `PytorchOOD`, named by its own class path.
"""

from lightning_gradood.detectors.activations import ASH, DICE, SCALE, AdaSCALE, PerturbedFeaturesProbe, ReAct
from lightning_gradood.detectors.class_patterns import SHE, KLMatching
from lightning_gradood.detectors.combined import Combined, EmpiricalTail, FittedCombined, Tuned, WeightedParts
from lightning_gradood.detectors.consistency import Consistency, ViewsProbe, ViewsSoftmax
from lightning_gradood.detectors.detector import (
    Detector,
    Fitted,
    FixedDetector,
    SavedDetector,
    classes_of,
    load_detector,
    normal_training_records,
    save_detector,
    score_in_blocks,
)
from lightning_gradood.detectors.gaussians import GradientGaussian, MahalanobisPP
from lightning_gradood.detectors.gradpca import GradPCA, GradPCAProbe
from lightning_gradood.detectors.grood import GROOD, FromNoiseProbe
from lightning_gradood.detectors.image_statistics import ImageStatistics, ImageStatisticsProbe
from lightning_gradood.detectors.known_anomalies import FittedKnownAnomalies, KnownAnomalies, readings
from lightning_gradood.detectors.last_layer import FDBD, NCI, NNGuide, ViM
from lightning_gradood.detectors.mahalanobis import RMDS, RMDSPP, Mahalanobis, MahalanobisPPPaper, MahalanobisProbe
from lightning_gradood.detectors.mlp import MLP, FittedMLP, TrainedDetector, UntrainedMLP, fit_all
from lightning_gradood.detectors.nac import NAC, NeuronLayer, NeuronProbe
from lightning_gradood.detectors.neighbours import KNN, LID, GradientKNN
from lightning_gradood.detectors.output_scores import (
    GEN,
    ODIN,
    Baseline,
    Energy,
    GradNorm,
    MaxLogit,
    OdinProbe,
)
from lightning_gradood.detectors.pytorch_ood_adapter import PytorchOOD, PytorchOODProbe
from lightning_gradood.detectors.synthetic_outliers import SyntheticOutliers
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings

__all__ = [
    "ASH", "DICE", "FDBD", "GEN", "GROOD", "KNN", "LID", "MLP", "NAC", "NCI", "ODIN", "RMDS", "RMDSPP", "SCALE",
    "SHE", "AdaSCALE", "Baseline", "Combined", "Consistency", "Detector", "EmpiricalTail", "Energy", "Fitted",
    "FittedCombined", "FittedKnownAnomalies", "FittedMLP", "FixedDetector", "FromNoiseProbe", "GradNorm",
    "GradPCA", "GradPCAProbe", "GradientGaussian", "GradientKNN", "ImageStatistics",
    "ImageStatisticsProbe", "KLMatching", "KnownAnomalies", "Mahalanobis", "MahalanobisPP", "MahalanobisPPPaper",
    "MahalanobisProbe", "MaxLogit", "NNGuide", "NeuronLayer", "NeuronProbe", "OdinProbe", "PerturbedFeaturesProbe",
    "PytorchOOD", "PytorchOODProbe", "ReAct", "SavedDetector", "SyntheticOutliers", "TensorFitted",
    "TensorReadings", "TrainedDetector", "Tuned", "UntrainedMLP", "ViM", "ViewsProbe", "ViewsSoftmax", "WeightedParts",
    "classes_of", "fit_all", "load_detector", "normal_training_records", "readings", "save_detector", "score_in_blocks",
]  # fmt: skip
