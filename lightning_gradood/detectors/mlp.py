"""The paper's detector: a 2-layer MLP on gradient representations."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.detectors.detector import Detector
from lightning_gradood.detectors.inputs import Inputs
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.metrics import auroc
from lightning_gradood.networks import MLPSettings, RepresentationMLP
from lightning_gradood.probes import Probe
from lightning_gradood.records import Records

_VALIDATION_BATCH = 4096


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
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.default_generator.manual_seed(seed)  # of the CPU alone; torch.manual_seed sets those of GPUs too
            self.network = RepresentationMLP(train[0], self._network_settings)
            return train_with_early_stopping(self.network, train, val)

    @override
    def score(self, records: Records) -> np.ndarray:
        network = self._fitted(self.network).eval()
        with torch.no_grad():
            logits: Tensor = network(self._tensors(records)[0])
        return np.asarray(logits.double().numpy())

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._fitted(self.network).state_dict())

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
            network = RepresentationMLP(torch.zeros(2, len(state["mean"]), dtype=torch.float64), self._network_settings)
        network.load_state_dict(state)
        self.network = network

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


def train_with_early_stopping(
    network: RepresentationMLP, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]
) -> list[dict[str, float]]:
    """Train until the validation loss has not fallen for `patience` epochs; keep the weights of the first best epoch.

    `train` and `val` are representations float64 [n, L] and labels (0 normal, 1 anomalous) int64 [n]. Returns `epoch`,
    `train/loss`, `val/loss` (means over records) and `val/auroc` of every epoch.
    """
    settings, optimizer = network.settings, network.optimizer()
    curves, best, lowest, waited = list[dict[str, float]](), copy.deepcopy(network.state_dict()), math.inf, 0
    for epoch in range(settings.max_epochs):
        losses = _Mean()
        network.train()
        for rows in torch.split(torch.randperm(len(train[0])), settings.batch_size):
            loss = binary_cross_entropy_with_logits(network(train[0][rows]), train[1][rows].float())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.add(loss.detach(), len(rows))
        logits, val_loss = _validate(network, *val)
        area = auroc(logits.double().numpy(), val[1].numpy())
        curves.append({"epoch": float(epoch), "train/loss": losses.value, "val/loss": val_loss, "val/auroc": area})
        waited = 0 if val_loss < lowest else waited + 1
        if val_loss < lowest:
            best, lowest = copy.deepcopy(network.state_dict()), val_loss
        if waited >= settings.patience or not math.isfinite(val_loss):
            break
    network.load_state_dict(best)
    return curves


def _validate(network: RepresentationMLP, representations: Tensor, anomalous: Tensor) -> tuple[Tensor, float]:
    network.eval()
    logits, losses = [], _Mean()
    with torch.no_grad():
        for part, labels in _parts(representations, anomalous):
            logits.append(network(part))
            losses.add(binary_cross_entropy_with_logits(logits[-1], labels.float()), len(labels))
    return torch.cat(logits), losses.value


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(tensor, _VALIDATION_BATCH) for tensor in tensors), strict=True)


class _Mean:
    """Mean over records of losses that are means over batches."""

    def __init__(self) -> None:
        self.sum, self.number = torch.zeros(()), 0

    def add(self, loss: Tensor, number: int) -> None:
        self.sum, self.number = self.sum + loss * number, self.number + number

    @property
    def value(self) -> float:
        return float(self.sum / self.number)
