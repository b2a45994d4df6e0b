"""The paper's detector: a 2-layer MLP on gradient representations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal
from lightning_gradood.detectors.detector import Detector
from lightning_gradood.detectors.inputs import Inputs
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.networks import MLPSettings, RepresentationMLP, Standardisation
from lightning_gradood.probes import Probe
from lightning_gradood.records import Records

if TYPE_CHECKING:
    from lightning_gradood.tasks import Trained


class MLP(Detector):
    """Binary cross entropy on the representation, early stopping on the validation loss, weights of the best epoch.

    With `settings.inputs` other than `[norms]` it reads more than the paper's, see `Inputs`.

    Args:
        label_designs: the representation is their norms side by side.
        settings: inputs, width, optimizer and stopping.

    Reference:
        Lee, Prabhushankar, AlRegib 2022, section 3.2.
    """

    name = "mlp"
    scores_are_logits = True

    def __init__(self, label_designs: Sequence[LabelDesign], settings: MLPSettings, name: str = "mlp") -> None:
        self.label_designs = list(label_designs)
        self.settings = settings
        self._inputs = Inputs(settings.inputs, self.label_designs)
        self.name = name
        self.network: RepresentationMLP | None = None

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return self._inputs.probes

    @property
    def reads_norms_alone(self) -> bool:
        """Whether it is the paper's detector, whose network takes the norms themselves."""
        return self._inputs.names == ["norms"]

    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        train, val = (self._tensors(records.where(split=split)) for split in ("train", "val"))
        found = train_mlp(train, val, self._network_settings, seed)
        self.network = found.network
        return found.curves

    @override
    def score(self, records: Records) -> np.ndarray:
        logits = self._fitted(self.network)(self._tensors(records)[0])
        return np.asarray(logits.double().numpy())

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return state_of(self._fitted(self.network))

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.network = mlp_of(state, self._network_settings)

    @property
    def _network_settings(self) -> MLPSettings:
        # other inputs have their logarithms taken by `Inputs`
        return self.settings if self.reads_norms_alone else replace(self.settings, log_values=False)

    def _tensors(self, records: Records) -> tuple[Tensor, Tensor]:
        if self.reads_norms_alone:
            values = np.concatenate([records.probe(probe.name) for probe in self.probes], axis=1)
        else:
            values = self._inputs.values(records)
        return torch.from_numpy(values), torch.from_numpy(records.anomalous)


def train_mlp(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], settings: MLPSettings, seed: int) -> Trained:
    """Train one MLP on representations float64 [n, L] and labels [n], 0 normal, 1 anomalous."""
    from lightning_gradood.tasks import Member, train_detection  # Lightning trains it; what scores needs none

    (found,) = train_detection([Member.of(train, val, settings, seed)])
    if isinstance(found, Refusal):
        raise found
    return found


def state_of(network: RepresentationMLP) -> dict[str, Tensor]:
    """The arrays of an MLP by name."""
    parts = vars(network.standardisation) | vars(network)
    return {name: part for name, part in parts.items() if isinstance(part, Tensor)}


def mlp_of(state: dict[str, Tensor], settings: MLPSettings) -> RepresentationMLP:
    """The MLP that `state_of` described."""
    statistics = {name: state[name] for name in ("mean", "std", "directions")}
    weights = {name: part for name, part in state.items() if name not in statistics}
    return RepresentationMLP(Standardisation(**statistics, log_values=settings.log_values), **weights)
