"""Scores as functions of tensors, which torch.export traces: the arithmetic of `Fitted.score` in float64, without NumPy.

A detector of your own can be exported once its score is written so:

    @tensor_score.register
    def _(fitted: FittedMine, read: TensorReadings) -> Tensor:
        return read.values["logits"].amax(dim=1)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor

from lightning_gradood.core import Refusal
from lightning_gradood.detectors.activations import ASH, SCALE, FittedActivations, number_above
from lightning_gradood.detectors.class_patterns import FittedKLMatching, FittedSHE
from lightning_gradood.detectors.combined import TAIL, EmpiricalTail, FittedCombined
from lightning_gradood.detectors.consistency import FittedConsistency, ViewsProbe, ViewsSoftmax
from lightning_gradood.detectors.detector import Fitted
from lightning_gradood.detectors.gaussians import ClassGaussian, FittedMahalanobisPP
from lightning_gradood.detectors.known_anomalies import FittedKnownAnomalies
from lightning_gradood.detectors.last_layer import FittedFDBD, FittedNCI, FittedNNGuide, FittedViM
from lightning_gradood.detectors.logistic import Logistic
from lightning_gradood.detectors.mahalanobis import FittedMahalanobis, FittedRMDS
from lightning_gradood.detectors.mlp import FittedMLP, Inputs
from lightning_gradood.detectors.neighbours import FittedKNN
from lightning_gradood.detectors.output_scores import GEN, Baseline, Energy, GradNorm, GradNormProbe, MaxLogit
from lightning_gradood.detectors.synthetic_outliers import FARTHEST, FittedSyntheticOutliers
from lightning_gradood.probes import LogitsProbe, PenultimateProbe
from lightning_gradood.records import LinearHead

_SMALLEST = 1e-12  # of lengths and squared distances, as where they are fitted


@dataclass(frozen=True)
class TensorReadings:
    """What probes have read of N images: by probe name float64 [N, width], and the predicted classes int64 [N]."""

    values: Mapping[str, Tensor]
    predictions: Tensor

    @property
    def logits(self) -> Tensor:
        """Of every class."""
        return self.values[LogitsProbe.name]

    @property
    def features(self) -> Tensor:
        """Penultimate ones."""
        return self.values[PenultimateProbe.name]


@singledispatch
def tensor_score(fitted: Fitted, read: TensorReadings) -> Tensor:
    """Scores float64 [N] as `Fitted.score` gives them; a Refusal for a detector whose score is not written so."""
    raise _refusal(f"{type(fitted).__name__}, whose is not")


@tensor_score.register
def _(fitted: Baseline, read: TensorReadings) -> Tensor:
    others = read.logits.scatter(1, read.logits.argmax(dim=1, keepdim=True), -torch.inf)
    return others.logsumexp(1) - read.logits.logsumexp(1)


@tensor_score.register
def _(fitted: MaxLogit, read: TensorReadings) -> Tensor:
    return -read.logits.amax(dim=1)


@tensor_score.register
def _(fitted: GEN, read: TensorReadings) -> Tensor:
    log_p = read.logits.sort(dim=1).values - read.logits.logsumexp(1, keepdim=True)
    rest = torch.cat([torch.log1p(-log_p[:, :-1].exp()), log_p[:, :-1].logsumexp(1, keepdim=True)], dim=1)
    return (fitted.gamma * (log_p + rest)).exp()[:, -fitted.largest :].sum(dim=1)


@tensor_score.register
def _(fitted: Energy, read: TensorReadings) -> Tensor:
    return -fitted.temperature * (read.logits / fitted.temperature).logsumexp(1)


@tensor_score.register
def _(fitted: GradNorm, read: TensorReadings) -> Tensor:
    return -read.values[GradNormProbe.name][:, 0]


@tensor_score.register
def _(fitted: FittedKNN, read: TensorReadings) -> Tensor:
    values, rows = _unit_length(read.features), _tensor(fitted.neighbours.rows)
    order = rows.square().sum(dim=1) - 2 * (values.to(rows) @ rows.T)
    nearest = order.topk(fitted.neighbours.rank, largest=False).indices[:, -1]
    return _length(values - rows[nearest])[:, 0]


@tensor_score.register
def _(fitted: FittedMahalanobisPP, read: TensorReadings) -> Tensor:
    return _log_distance(fitted.gaussian, _unit_length(read.features), read.predictions)


@tensor_score.register
def _(fitted: FittedConsistency, read: TensorReadings) -> Tensor:
    return _log_distance(fitted.gaussian, read.values[ViewsProbe.name], read.predictions)


@tensor_score.register
def _(fitted: ViewsSoftmax, read: TensorReadings) -> Tensor:
    logits, changes = read.logits.sort(dim=1, descending=True).values, read.values[ViewsProbe.name]
    mirror, blur = changes.chunk(2, dim=1)
    averaged = logits + (mirror + blur)[:, torch.arange(logits.shape[1]).clamp_max(3)] / 3
    return averaged[:, 1:].logsumexp(1) - averaged.logsumexp(1)


@tensor_score.register
def _(fitted: FittedRMDS, read: TensorReadings) -> Tensor:
    values = _unit_length(read.features) if fitted.directions else read.features
    distances = -2 * fitted.gaussian.confidence(values)
    return distances if fitted.background is None else distances + 2 * fitted.background.confidence(values)


@tensor_score.register
def _(fitted: FittedMahalanobis, read: TensorReadings) -> Tensor:
    confidences = read.values[fitted.column][:, fitted.index :: fitted.magnitudes]
    return -confidences[:, -1] if fitted.logistic is None else _logit(fitted.logistic, confidences)


@tensor_score.register
def _(fitted: FittedViM, read: TensorReadings) -> Tensor:
    centred, principal = read.features - _tensor(fitted.origin), _tensor(fitted.principal)
    residual = _length(centred - centred @ principal @ principal.T)[:, 0]
    return fitted.alpha * residual + _energy(fitted.head, read.features)


@tensor_score.register
def _(fitted: FittedFDBD, read: TensorReadings) -> Tensor:
    logits = _logits(fitted.head, read.features)
    gaps = (logits.amax(dim=1, keepdim=True) - logits) / _tensor(fitted.apart)[logits.argmax(dim=1)]
    return -gaps.sum(dim=1) / _length(read.features - _tensor(fitted.mean))[:, 0].clamp_min(_SMALLEST)


@tensor_score.register
def _(fitted: FittedNCI, read: TensorReadings) -> Tensor:
    weights = _tensor(fitted.head.weight)[_logits(fitted.head, read.features).argmax(dim=1)]
    aligned = (_unit_length(read.features - _tensor(fitted.mean)) * weights).sum(dim=1)
    return -aligned - fitted.alpha * read.features.abs().sum(dim=1)


@tensor_score.register
def _(fitted: FittedNNGuide, read: TensorReadings) -> Tensor:
    similar = _unit_length(read.features) @ _tensor(fitted.guides).double().T
    return similar.topk(fitted.k).values.mean(dim=1) * _energy(fitted.head, read.features)


@tensor_score.register
def _(fitted: FittedActivations, read: TensorReadings) -> Tensor:
    features = read.features if fitted.ceiling is None else read.features.clamp_max(fitted.ceiling)
    if isinstance(fitted.shaping, ASH | SCALE):
        features = _shaped(fitted.shaping, features)
    elif fitted.shaping is not None:
        raise _refusal(type(fitted.shaping).__name__)
    return _energy(fitted.head, features)


@tensor_score.register
def _(fitted: FittedSHE, read: TensorReadings) -> Tensor:
    means = _of_class(fitted.classes, fitted.means[:-1], fitted.means[-1], read.predictions)
    return -(read.features * means).sum(dim=1)


@tensor_score.register
def _(fitted: FittedKLMatching, read: TensorReadings) -> Tensor:
    log_p = read.logits - read.logits.logsumexp(1, keepdim=True)
    p = log_p.exp()
    return ((p * log_p).sum(dim=1, keepdim=True) - p @ _tensor(fitted.log_means).T).amin(dim=1)


@tensor_score.register
def _(fitted: FittedSyntheticOutliers, read: TensorReadings) -> Tensor:
    values, about = _values(fitted.inputs, read), fitted.deviations
    if about is None:
        return _logit(fitted.logistic, values)
    centres = _of_class(about.classes, about.centres, np.zeros(about.centres.shape[1]), read.predictions)
    found = ((values - _tensor(about.mean)) / _tensor(about.scale) - centres).clamp(-FARTHEST, FARTHEST)
    return _logit(fitted.logistic, torch.cat([found, found.abs()], dim=1))


@tensor_score.register
def _(fitted: FittedMLP, read: TensorReadings) -> Tensor:
    return fitted.network(_values(fitted.inputs, read)).double()


@tensor_score.register
def _(fitted: FittedCombined, read: TensorReadings) -> Tensor:
    pairs = zip(fitted.members, fitted.tails, strict=True)
    surprises = torch.stack([_surprise(tail, tensor_score(one, read)) for one, tail in pairs])
    return _tensor(fitted.weights) @ (surprises if fitted.rule == "fisher" else surprises.square())


@tensor_score.register
def _(fitted: FittedKnownAnomalies, read: TensorReadings) -> Tensor:
    earlier, parts = tensor_score(fitted.earlier, read), list[Tensor]()  # which refuses gradients
    for probe in fitted.reads:
        values = read.values[probe.name]
        parts += [values, _confidence(values)] if isinstance(probe, LogitsProbe) else [values]
    scores = [earlier, *(_logit(model, torch.cat(parts, dim=1)) for model in fitted.models)]
    surprises = [_surprise(tail, one) for tail, one in zip(fitted.tails, scores, strict=True)]
    return (torch.stack(surprises) + _tensor(np.log(fitted.shares))[:, None]).amax(dim=0)


def _refusal(got: str) -> Refusal:
    return Refusal(
        f"The detector's score should be written as operations on tensors. Got {got}. Take another detector, or register "
        "yours with `lightning_gradood.detectors.tensor_score`."
    )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)


def _length(values: Tensor) -> Tensor:
    return values.square().sum(dim=1, keepdim=True).sqrt()


def _unit_length(values: Tensor) -> Tensor:
    return values / _length(values).clamp_min(_SMALLEST)


def _logits(head: LinearHead, features: Tensor) -> Tensor:
    return features @ _tensor(head.weight).T + _tensor(head.bias)


def _energy(head: LinearHead, features: Tensor) -> Tensor:
    return -_logits(head, features).logsumexp(1)


def _logit(logistic: Logistic, values: Tensor) -> Tensor:
    standardised = (values - _tensor(logistic.mean)) / _tensor(logistic.scale)
    return standardised @ _tensor(logistic.coefficients) + logistic.bias


def _of_class(classes: np.ndarray, rows: np.ndarray, other: np.ndarray, predictions: Tensor) -> Tensor:
    """Rows of the predicted classes, or `other` where a class has none, [N, D]."""
    table = np.tile(other, (int(classes.max()) + 2, 1))
    table[classes] = rows
    return _tensor(table)[predictions.clamp_max(len(table) - 1)]


def _log_distance(gaussian: ClassGaussian, values: Tensor, predictions: Tensor) -> Tensor:
    centres = _of_class(gaussian.classes, gaussian.centres, np.zeros(gaussian.centres.shape[1]), predictions)
    whitened = ((values - _tensor(gaussian.mean)) / _tensor(gaussian.scale) - centres) @ _tensor(gaussian.directions)
    return (whitened.square().sum(dim=1) + _SMALLEST).log()


def _shaped(shaping: ASH | SCALE, features: Tensor) -> Tensor:
    number = int(number_above(shaping.percentile, features.shape[1]))
    largest = features.argsort(dim=1, descending=True, stable=True)[:, :number]
    kept = torch.zeros_like(features).scatter(1, largest, 1.0)
    every, some = features.sum(dim=1, keepdim=True), (features * kept).sum(dim=1, keepdim=True)
    if isinstance(shaping, ASH) and shaping.variant == "b":
        return kept * every / number
    ratio = torch.where(some == 0, 1.0, every / torch.where(some == 0, 1.0, some))
    sharp = ratio.clamp_max(features.shape[1] / number).exp()
    if isinstance(shaping, ASH):
        return kept * features * (sharp if shaping.variant == "s" else 1.0)
    return features * sharp


def _confidence(logits: Tensor) -> Tensor:
    """Nine numbers, as `confidence` in mlp.py."""
    if logits.shape[1] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], dim=1)
    ordered = logits.sort(dim=1, descending=True).values
    top = torch.cat([ordered, ordered[:, -1:]], dim=1)[:, :3]
    energy, mean = ordered.logsumexp(1, keepdim=True), logits.mean(dim=1, keepdim=True)
    others = ordered[:, 1:].logsumexp(1, keepdim=True) - energy
    deviation = (logits - mean).square().mean(dim=1, keepdim=True).sqrt()
    return torch.cat([energy, top[:, :2] - top[:, 1:], others, mean, deviation, top], dim=1)


def _values(inputs: Inputs, read: TensorReadings) -> Tensor:
    if "norms" in inputs.names:
        raise _refusal("a model of gradient norms, which need backward passes")
    probes = dict(zip(inputs.names, inputs.probes, strict=True))
    parts = {name: read.values[probe.name] for name, probe in probes.items()}
    return torch.cat([_confidence(part) if name == "confidence" else part for name, part in parts.items()], dim=1)


def _surprise(tail: EmpiricalTail, scores: Tensor) -> Tensor:
    start, scale = tail.exponential
    at_least = (_tensor(tail.normal) >= scores[:, None]).sum(dim=1)
    p_values = ((1.0 + at_least.double()) / (len(tail.normal) + 1.0)).clamp_min(1.0 - TAIL)
    return torch.where(scores > start, -np.log(1.0 - TAIL) + (scores - start) / scale, -p_values.log())
