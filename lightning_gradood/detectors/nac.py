"""NAC: how many normal images have had a neuron in the state in which an image has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Component, FinitePositive, PositiveInt, frozen_network
from lightning_gradood.detectors.detector import Detector, Fitted, float64_blocks, normal_training_records
from lightning_gradood.gradients import Uniform
from lightning_gradood.probes import PENULTIMATE, Probe, feature_layer_gradient
from lightning_gradood.records import Records

_BASE = 1000.0  # of the logarithm by which intervals become narrower towards ½


@dataclass(frozen=True)
class NeuronProbe(Probe):
    """z · ∂KL(u‖p)/∂z of each channel of a feature layer, [N, C]: p the softmax, u uniform over the classes.

    Both factors are sums over the places of an image, as in the original; an image costs a forward and a backward pass.

    Args:
        layer: a module as in `network.named_modules()`, or `penultimate`.
    """

    layer: str = PENULTIMATE

    @property
    @override
    def name(self) -> str:
        return f"neurons/{self.layer}"

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        with frozen_network(network):
            images = images.clone() if images.is_inference() else images
            sums, gradient = feature_layer_gradient(network, images, self.layer, Uniform().logit_gradient)
        return torch.mul(sums, gradient)


@dataclass(frozen=True)
class NeuronLayer(Component):
    """A feature layer whose neurons' states are counted.

    Args:
        layer: as for `NeuronProbe`.
        steepness: α of the states sigmoid(α·z·∂KL/∂z).
        bins: M, of the ends of intervals into which states are divided, even ones.
        enough: O, the number of normal images with which an interval is covered.
    """

    layer: str = PENULTIMATE
    steepness: FinitePositive = 100.0
    bins: PositiveInt = 50
    enough: PositiveInt = 50


_LAYERS = [NeuronLayer()]


@dataclass(frozen=True)
class NAC(Detector):
    """Minus the mean coverage of an image's neuron states, averaged over neurons, then layers, in [−1, 0].

    Coverage is the number of normal `train` records with that neuron in that interval, divided by `enough`, at most 1.

    Args:
        layers: by default the penultimate features with the original's settings for CIFAR-10 and a ResNet-18. Its best are
            several, such as `[{}, {layer: layer3, steepness: 1000, bins: 500, enough: 100}]`, chosen on validation anomalies:
            z·∂KL/∂z differs by network, so let `Tuned` choose among powers of ten of the steepness.

    Reference:
        Liu, Tian, Li, Ma, Wang 2024, "Neuron Activation Coverage", Eq. 4 to 7; ood_coverage, `nac_postprocessor.py`.
    """

    layers: list[NeuronLayer] | None = None
    name: str = "nac"
    needs_anomalies: ClassVar[bool] = False

    @cached_property
    @override
    def probes(self) -> Sequence[Probe]:
        return [NeuronProbe(one.layer) for one in self.layers or _LAYERS]

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        normal, found = normal_training_records(records), list[Coverage]()
        for one, probe in zip(self.layers or _LAYERS, self.probes, strict=True):
            values = normal.stored(probe.name)
            empty = Coverage(probe.name, one.steepness, np.zeros((values.shape[1], len(ends(one.bins)) - 1)))
            cells = (empty.cells(block).ravel() for _, block in float64_blocks(values))
            counts = sum(np.bincount(some, minlength=empty.covered.size) for some in cells)
            covered = np.minimum(counts / one.enough, 1.0).reshape(empty.covered.shape)
            found.append(Coverage(probe.name, one.steepness, covered))
        return FittedNAC(found)


def ends(bins: int) -> np.ndarray:
    """Ends of the intervals of states, float64 [about bins], from 0 to 1.2, symmetric about ½."""
    left = np.log(np.linspace(1, _BASE**0.5, max(bins // 2, 2))) / np.log(_BASE)
    found = np.concatenate([left[:-1], (1 - left)[::-1]])
    found[-1] += 0.01
    return np.append(found, 1.2)


@dataclass(frozen=True, eq=False)
class Coverage(Component):
    """Of the neurons of a column: how far each interval of states is covered, float64 [C, intervals]."""

    column: str
    steepness: float
    covered: np.ndarray

    def cells(self, values: np.ndarray) -> np.ndarray:
        """Places in the flattened `covered` of the states of values [n, C], int64 [n, C]."""
        intervals = self.covered.shape[1]
        at = np.searchsorted(ends(intervals + 1), expit(self.steepness * values), side="right") - 1
        return np.asarray(at + intervals * np.arange(values.shape[1]))


@dataclass(frozen=True, eq=False)
class FittedNAC(Fitted):
    """The coverage of each layer."""

    layers: Sequence[Coverage]

    @override
    def score(self, records: Records) -> np.ndarray:
        cells = [(one, one.cells(records.probe(one.column))) for one in self.layers]
        return -np.asarray(np.mean([one.covered.ravel()[at].mean(axis=1) for one, at in cells], axis=0))
