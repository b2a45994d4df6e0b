"""The paper's detector: a 2-layer MLP on gradient representations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar, final

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

if TYPE_CHECKING:
    from lightning_gradood.tasks import Member

Labelled = tuple[np.ndarray, np.ndarray]  # values float64 [n, D], and labels int64 [n]: 0 normal, 1 anomalous


class TrainedDetector(Detector):
    """A detector whose model `tasks.DetectionTask` trains, side by side with those of others in `fit_all`."""

    @abstractmethod
    def begin(self, records: Records, seed: int) -> Fitted | UntrainedMLP:
        """Return what `fit` returns, or the MLP that is still to be trained."""

    @final
    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        (found,) = fit_all([partial(self.begin, records, seed)])
        if isinstance(found, Exception):
            raise found
        return found


@dataclass(frozen=True)
class MLP(TrainedDetector):
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
    def begin(self, records: Records, seed: int) -> UntrainedMLP:
        parts = [records.where(split=split) for split in ("train", "val")]
        train, val = ((self.inputs.values(part), part.anomalous) for part in parts)
        settings = self.settings if self.reads_norms_alone else replace(self.settings, log_values=False)
        return UntrainedMLP.of(self.inputs, settings, train, val, seed)


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


@dataclass(frozen=True, eq=False)
class UntrainedMLP:
    """An MLP that is still to be trained, and what it reads."""

    inputs: Inputs
    member: Member

    @classmethod
    def of(cls, inputs: Inputs, settings: MLPSettings, train: Labelled, val: Labelled, seed: int) -> UntrainedMLP:
        """Take values of `inputs` and labels of both splits."""
        from lightning_gradood.tasks import Member  # Lightning trains it; what scores needs none

        own, others = ((torch.from_numpy(values), torch.from_numpy(labels)) for values, labels in (train, val))
        return cls(inputs, Member.of(own, others, settings, seed))


def fit_all(begins: Iterable[Callable[[], Fitted | UntrainedMLP]]) -> list[Fitted | Exception]:
    """Finish several fits, and train all MLPs among them side by side; in place of one that fails stands its error.

    Args:
        begins: `TrainedDetector.begin`, or another detector's `fit`, with its arguments. They are called one by one, so
            that the records of all need not be in memory together.
    """
    found: list[Fitted | UntrainedMLP | Exception] = []
    for begin in begins:
        try:
            found.append(begin())
        except Exception as error:  # one detector's must not lose the others
            found.append(error)
    untrained = [one for one in found if isinstance(one, UntrainedMLP)]
    trained = iter(_trained(untrained))
    return [next(trained) if isinstance(one, UntrainedMLP) else one for one in found]


def _trained(untrained: Sequence[UntrainedMLP]) -> list[Fitted | Exception]:
    if not untrained:
        return []
    from lightning_gradood.tasks import train_detection

    return [
        found if isinstance(found, Refusal) else FittedMLP(one.inputs, found.network, found.curves)
        for one, found in zip(untrained, train_detection([one.member for one in untrained]), strict=True)
    ]
