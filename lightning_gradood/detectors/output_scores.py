"""Scores of what the network gives out: probabilities, logits, energy, GradNorm, and ODIN's after a step of the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    FiniteNonNegative,
    FinitePositive,
    PositiveInt,
    Refusal,
    frozen_network,
    graphs_kept,
    input_gradient,
    to_float64,
)
from lightning_gradood.detectors.detector import Detector, Fitted, FixedDetector
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings
from lightning_gradood.gradients import Predicted
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import LogitsProbe, PenultimateProbe, Probe
from lightning_gradood.records import Records

_TEMPERATURES = (1.0, 10.0, 100.0, 1000.0)
_MAGNITUDES = (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.0024, 0.005, 0.01, 0.05, 0.1, 0.2)


class OutputScore(FixedDetector, TensorFitted):
    """Base of formulas of what the network gives out."""

    probes: ClassVar[Sequence[Probe]] = (LogitsProbe(),)


@dataclass(frozen=True)
class Baseline(OutputScore):
    """Maximum softmax probability p (Hendrycks, Gimpel 2017, section 2), as log(1 − p), in (−∞, 0).

    That is the order of −p, but without ties where p rounds to 1.
    """

    name: str = "baseline"

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        others = read.logits.scatter(1, read.logits.argmax(dim=1, keepdim=True), -torch.inf)
        return others.logsumexp(1) - read.logits.logsumexp(1)


@dataclass(frozen=True)
class MaxLogit(OutputScore):
    """The largest logit, negated (Hendrycks, Basart, Mazeika et al. 2022; OpenOOD's `mls`)."""

    name: str = "maxlogit"

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return -read.logits.amax(dim=1)


@dataclass(frozen=True)
class GEN(OutputScore):
    """Generalised entropy Σ p^γ·(1 − p)^γ over the `largest` softmax probabilities p, at least 0.

    Reference:
        Liu, Lochman, Zach 2023; defaults of OpenOOD, `gen`. The arithmetic is also that of pytorch-ood, but for
        1 − p, which is summed over the other classes, as it would round to 0 for a confident image.
    """

    gamma: FinitePositive = 0.1
    largest: PositiveInt = 100
    name: str = "gen"

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        log_p = read.logits.sort(dim=1).values - read.logits.logsumexp(1, keepdim=True)
        rest = torch.cat([torch.log1p(-log_p[:, :-1].exp()), log_p[:, :-1].logsumexp(1, keepdim=True)], dim=1)
        return (self.gamma * (log_p + rest)).exp()[:, -self.largest :].sum(dim=1)


@dataclass(frozen=True)
class Energy(OutputScore):
    """−T·logsumexp(z / T) of the logits z, T = `temperature` above 0 (Liu, Wang, Owens, Li 2020, Eq. 4)."""

    temperature: FinitePositive = 1.0
    name: str = "energy"

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return -self.temperature * (read.logits / self.temperature).logsumexp(1)


@dataclass(frozen=True)
class GradNorm(OutputScore):
    """Minus the L1 norm of the gradient of Σ_c −log softmax(z)_c in the last layer's weight, which normal images have larger.

    In closed form: the gradient is the outer product of C·softmax(z) − 1 and the penultimate features, so its L1 norm
    is the product of theirs. The loss is summed over the C classes, as in the original; a mean would divide by C.

    Reference:
        Huang, Geng, Li 2021, Eq. 7; its code, gradnorm_ood, `iterate_data_gradnorm`.
    """

    name: str = "gradnorm"
    needs_head: ClassVar[bool] = True
    probes: ClassVar[Sequence[Probe]] = (LogitsProbe(), PenultimateProbe())

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        seeds = read.logits.shape[1] * read.logits.softmax(dim=1) - 1
        return -seeds.abs().sum(dim=1) * read.features.abs().sum(dim=1)


def signs_of(gradient: Tensor, channel_steps: Sequence[float] | None = None) -> Tensor:
    """Return 1 where the gradient is 0 or more, −1 elsewhere, as odin and deep_Mahalanobis do with `torch.ge`.

    With `channel_steps`, one factor for each channel of images [N, C, H, W], each sign times its channel's.
    """
    signs = 2 * (gradient >= 0).to(gradient) - 1
    if channel_steps is None:
        return signs
    if len(channel_steps) != signs.shape[1]:
        raise Refusal(
            f"`channel_steps` should have a factor for each channel of the images, {signs.shape[1]}. Got `channel_steps = "
            f"{list(channel_steps)}`. Write e.g. the deviations of --model.normalize.std, each divided by 0.5."
        )
    return signs * signs.new_tensor(channel_steps)[:, None, None]


def leaf(images: Tensor) -> Tensor:
    """Return a copy of the images whose gradient can be taken, also of those made in inference mode."""
    return images if graphs_kept() else images.detach().clone().requires_grad_()


@dataclass(frozen=True)
class OdinProbe(Probe):
    """Largest softmax probability at temperature T of the image x − ε·sign(∇ₓ CE(z/T, ŷ)), for every T and ε.

    Pixels are those in [0, 1], neither divided by a standard deviation nor clipped afterwards; a gradient of 0 counts
    as positive. An image costs one forward pass, one backward pass for each temperature and one forward pass for each
    pair of a temperature and a magnitude above 0: with the default grids 41 forward and 4 backward passes. Arguments as
    for `ODIN`.

    Reference:
        Liang et al. 2018; their `calData.py`, which perturbs normalised images.
    """

    temperatures: Sequence[FinitePositive] = _TEMPERATURES
    magnitudes: Sequence[FiniteNonNegative] = _MAGNITUDES
    name: ClassVar[str] = "odin"

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Temperature and magnitude of each column."""
        return [(temperature, magnitude) for temperature in self.temperatures for magnitude in self.magnitudes]

    @override
    def names(self, network: nn.Module) -> list[str]:
        return [f"T={temperature:g} eps={magnitude:g}" for temperature, magnitude in self.grid]

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Probabilities, float64 [N, T·ε], magnitudes varying fastest; the passes are in the network's dtype."""
        with frozen_network(network):
            images = leaf(images)
            logits = network(images)
            columns = [column for T in self.temperatures for column in self._columns(network, images, logits, T)]
        return torch.stack(columns, dim=1)

    def _columns(self, network: nn.Module, images: Tensor, logits: Tensor, temperature: float) -> list[Tensor]:
        signs = self._signs(images, logits, temperature) if any(self.magnitudes) else images
        with torch.set_grad_enabled(graphs_kept()):  # a step counts as constant
            moved = [network(images - size * signs) if size else logits for size in self.magnitudes]
            return [torch.softmax(to_float64(one) / temperature, dim=1).amax(dim=1) for one in moved]

    def _signs(self, images: Tensor, logits: Tensor, temperature: float) -> Tensor:
        return _signs(images, logits, temperature)


@dataclass(frozen=True)
class ScaledOdinProbe(OdinProbe):
    """An `OdinProbe` whose step is ε times a factor of its own in each channel, as for `ODIN`."""

    channel_steps: Sequence[FinitePositive] = (1.0, 1.0, 1.0)

    @override
    def _signs(self, images: Tensor, logits: Tensor, temperature: float) -> Tensor:
        return signs_of(_signs(images, logits, temperature), self.channel_steps)


def _signs(images: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Signs of each image's own gradient; scaling the logits' gradients changes no sign and prevents underflow."""
    seeds = Predicted(temperature).logit_gradient(to_float64(logits.detach()))
    largest = seeds.abs().amax(dim=1, keepdim=True)
    seeds = (seeds / largest.where(largest > 0, 1.0)).to(logits)
    return signs_of(input_gradient(logits, images, seeds, keep=True))


@dataclass(frozen=True)
class ODIN(Detector):
    """Minus the largest softmax probability at temperature T after a step of ε towards the predicted class, in [−1, 0).

    The pair with the highest AUROC on `val` is taken, the first of equals. The cost is that of reading the whole grid,
    see `OdinProbe`; shorter grids are cheaper in proportion.

    Args:
        temperatures: T, positive, each once.
        magnitudes: ε, at least 0, each once, in units of pixels in [0, 1].
        channel_steps: factors of ε, one for each channel; None for 1. OpenOOD divides the step of normalised images by
            the deviations of the data sets that it knows, which is a step of ε in pixels, and by 0.5 for others, which
            is std / 0.5 here.

    Reference:
        Liang et al. 2018, section 3; the grid of deep_Mahalanobis (Lee et al. 2018), `OOD_Baseline_and_ODIN.py`;
        OpenOOD, `odin_postprocessor.py`, whose grid is T = 1, 10, 100, 1000 and ε = 0.0014, 0.0028.
    """

    temperatures: Sequence[FinitePositive] = _TEMPERATURES
    magnitudes: Sequence[FiniteNonNegative] = _MAGNITUDES
    channel_steps: Sequence[FinitePositive] | None = None
    name: str = "odin"

    @cached_property
    @override
    def probes(self) -> Sequence[Probe]:
        if self.channel_steps is None:
            return [OdinProbe(self.temperatures, self.magnitudes)]
        return [ScaledOdinProbe(self.temperatures, self.magnitudes, self.channel_steps)]

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        val = records.where(split="val")
        columns = val.probe(OdinProbe.name).T
        return FittedODIN(int(np.argmax([auroc(-column, val.anomalous) for column in columns])))


@dataclass(frozen=True, eq=False)
class FittedODIN(TensorFitted):
    """The column of `OdinProbe.grid` that is best on `val`."""

    column: int

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return -read.probe(OdinProbe.name)[:, self.column]
