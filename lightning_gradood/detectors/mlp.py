"""The paper's detector, a 2-layer MLP on gradient representations, and the inputs that learnt detectors can read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar, Literal, cast, final

import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import LOG_FLOOR, Component, Refusal
from lightning_gradood.detectors.consistency import ViewsProbe
from lightning_gradood.detectors.detector import Detector, Fitted
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.networks import MLPSettings, RepresentationMLP
from lightning_gradood.probes import FeatureSpreadProbe, GradientProbe, LogitsProbe, Probe
from lightning_gradood.records import Records

if TYPE_CHECKING:
    from lightning_gradood.tasks import Member

Input = Literal["norms", "features", "confidence", "views"]
Labelled = tuple[Tensor, Tensor]  # values float64 [n, D], and labels int64 [n]: 0 normal, 1 anomalous


@dataclass(frozen=True)
class Inputs(Component):
    """Groups of numbers about an image, one after the other.

    Args:
        names: `norms`, logarithms of the gradient norms of every label design, ln(value + 1e-30); `features`, averages
            and standard deviations of the channels of the feature layers; `confidence`, of the logits z: logsumexp, z₁ −
            z₂, z₂ − z₃, log(1 − p₁), mean, standard deviation, z₁, z₂, z₃; `views`, how the logits change with the
            view, see `ViewsProbe`.
        label_designs: whose norms are read.
        log_values: read log(norm + 1e-30) rather than norms.
    """

    names: Sequence[str]
    label_designs: Sequence[LabelDesign]
    log_values: bool = True

    @cached_property
    def probes(self) -> list[Probe]:
        """The probes that are read, each once."""
        of: dict[str, list[Probe]] = {
            "norms": [GradientProbe(design) for design in self.label_designs], "features": [FeatureSpreadProbe()],
            "confidence": [LogitsProbe()], "views": [ViewsProbe()],
        }  # fmt: skip
        return [probe for name in self.names for probe in of[name]]

    def values(self, read: TensorReadings) -> Tensor:
        """The numbers of each image, float64 [n, D]."""
        raw, values = () if self.log_values else GradientProbe, [read.probe(probe.name) for probe in self.probes]
        pairs = zip(self.probes, values, strict=True)
        return torch.cat([one if isinstance(probe, raw) else numbers(probe, one) for probe, one in pairs], dim=1)


def numbers(probe: Probe, values: Tensor) -> Tensor:
    """What a model takes of what a probe has read, [n, D]: norms as logarithms, of logits `confidence`, all else as it is."""
    if isinstance(probe, GradientProbe):
        return (values + LOG_FLOOR).log()
    return confidence(values) if isinstance(probe, LogitsProbe) else values


def confidence(logits: Tensor) -> Tensor:
    """Nine numbers that say how sure the classifier is, float64 [n, 9], of logits [n, classes]; see `Inputs`.

    Of fewer than three classes missing logits count as the smallest one; beside a single logit, the other is 0.
    """
    if logits.shape[1] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], dim=1)
    ordered = logits.sort(dim=1, descending=True).values
    top = torch.cat([ordered, ordered[:, -1:]], dim=1)[:, :3]
    energy, mean = ordered.logsumexp(1, keepdim=True), logits.mean(dim=1, keepdim=True)
    others = ordered[:, 1:].logsumexp(1, keepdim=True) - energy
    deviation = (logits - mean).square().mean(dim=1, keepdim=True).sqrt()
    return torch.cat([energy, top[:, :2] - top[:, 1:], others, mean, deviation, top], dim=1)


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

    With `settings.inputs` other than `[norms]` it reads more than the paper's (Lee et al. 2022, section 3.2).

    Args:
        label_designs: the representation is their norms side by side.
        settings: inputs, see `Inputs`, width, optimizer and stopping.
    """

    label_designs: Sequence[LabelDesign]
    settings: MLPSettings
    name: str = "mlp"
    scores_are_logits: ClassVar[bool] = True

    @cached_property
    def inputs(self) -> Inputs:
        """What is read."""
        return Inputs(self.settings.inputs, self.label_designs, self.settings.log_values)

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return self.inputs.probes

    @override
    def begin(self, records: Records, seed: int) -> UntrainedMLP:
        parts = [records.where(split=split) for split in ("train", "val")]
        train, val = ((self.inputs.values(TensorReadings.of(part)), torch.from_numpy(part.anomalous)) for part in parts)
        return UntrainedMLP.of(self.inputs, self.settings, train, val, seed)


@dataclass(frozen=True, eq=False)
class FittedMLP(TensorFitted):
    """A trained network on its inputs, and the curves of its training."""

    inputs: Inputs
    network: RepresentationMLP
    curves: Sequence[Mapping[str, float]] = ()

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return self.network(self.inputs.values(read)).double()


@dataclass(frozen=True, eq=False)
class UntrainedMLP:
    """An MLP that is still to be trained, and what it reads."""

    inputs: Inputs
    member: Member

    @classmethod
    def of(cls, inputs: Inputs, settings: MLPSettings, train: Labelled, val: Labelled, seed: int) -> UntrainedMLP:
        """Take values of `inputs` and labels of both splits."""
        from lightning_gradood.tasks import Member  # Lightning trains it; what scores needs none

        return cls(inputs, Member.of(train, val, settings, seed))


def fit_all(begins: Iterable[Callable[[], Fitted | UntrainedMLP]]) -> list[Fitted | Exception]:
    """Finish several fits, and train all MLPs among them side by side; in place of one that fails stands its error.

    `begins` are `TrainedDetector.begin`, or another detector's `fit`, with their arguments. They are called one by one, so
    that the records of all need not be in memory together.
    """
    from lightning_gradood.tasks import train_detection

    found: list[Fitted | UntrainedMLP | Exception] = []
    for begin in begins:
        try:
            found.append(begin())
        except Exception as error:  # one detector's must not lose the others
            found.append(error)
    trained = iter(train_detection([one.member for one in found if isinstance(one, UntrainedMLP)]))
    for place, one in enumerate(found):
        if isinstance(one, UntrainedMLP):
            ended = next(trained)
            found[place] = ended if isinstance(ended, Refusal) else FittedMLP(one.inputs, ended.network, ended.curves)
    return cast(list[Fitted | Exception], found)
