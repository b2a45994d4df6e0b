"""The paper's detector: a 2-layer MLP on gradient representations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal
from lightning_gradood.detectors.detector import Detector, Fitted
from lightning_gradood.detectors.inputs import Inputs
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.networks import MLPSettings, RepresentationMLP
from lightning_gradood.probes import Probe
from lightning_gradood.records import Records


@dataclass(frozen=True)
class MLP(Detector):
    """Binary cross entropy on the representation, early stopping on the validation loss, weights of the best epoch.

    With `settings.inputs` other than `[norms]` it reads more than the paper's, see `Inputs`.

    Args:
        label_designs: the representation is their norms side by side.
        settings: inputs, width, optimizer and stopping.

    Reference:
        Lee, Prabhushankar, AlRegib 2022, section 3.2.
    """

    label_designs: Sequence[LabelDesign]
    settings: MLPSettings
    name: str = "mlp"
    scores_are_logits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _ = self.inputs  # which refuses unknown ones

    @cached_property
    def inputs(self) -> Inputs:
        """What is read; the paper's network takes the logarithms of norms itself."""
        return Inputs(self.settings.inputs, self.label_designs, log_norms=not self.reads_norms_alone)

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return self.inputs.probes

    @property
    def reads_norms_alone(self) -> bool:
        """Whether it is the paper's detector, whose network takes the norms themselves."""
        return list(self.settings.inputs) == ["norms"]

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        parts = [records.where(split=split) for split in ("train", "val")]
        train, val = ((self.inputs.values(part), part.anomalous) for part in parts)
        settings = self.settings if self.reads_norms_alone else replace(self.settings, log_values=False)
        return fit_mlp(self.inputs, settings, train, val, seed)


@dataclass(frozen=True, eq=False)
class FittedMLP(Fitted):
    """A trained network on its inputs, and the curves of its training."""

    inputs: Inputs
    network: RepresentationMLP
    curves: Sequence[Mapping[str, float]] = ()

    @override
    def score(self, records: Records) -> np.ndarray:
        logits = self.network(torch.from_numpy(self.inputs.values(records)))
        return np.asarray(logits.double().numpy())


Labelled = tuple[np.ndarray, np.ndarray]  # values float64 [n, D], and labels int64 [n]: 0 normal, 1 anomalous


def fit_mlp(inputs: Inputs, settings: MLPSettings, train: Labelled, val: Labelled, seed: int) -> FittedMLP:
    """Train one MLP on the values of `inputs`."""
    from lightning_gradood.tasks import Member, train_detection  # Lightning trains it; what scores needs none

    own, others = ((torch.from_numpy(values), torch.from_numpy(labels)) for values, labels in (train, val))
    (found,) = train_detection([Member.of(own, others, settings, seed)])
    if isinstance(found, Refusal):
        raise found
    return FittedMLP(inputs, found.network, found.curves)
