"""Mahalanobis: the distance of features to the nearest class mean, plain, after a step, or over all layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    FiniteNonNegative,
    FinitePositive,
    frozen_network,
    graphs_kept,
    input_gradient,
    to_float64,
)
from lightning_gradood.detectors.detector import Detector, Fitted, classes_of, float64_blocks, normal_training_records
from lightning_gradood.detectors.gaussians import ClassGaussian
from lightning_gradood.detectors.logistic import Logistic, fit_logistic
from lightning_gradood.detectors.output_scores import leaf, signs_of
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings, unit_length
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import (
    PenultimateProbe,
    Probe,
    feature_layer_names,
    feature_layer_output,
    feature_layer_outputs,
)
from lightning_gradood.records import Records


class Moments:
    """Sums from which a Gaussian of at most `classes` classes is made, added up batch by batch in float64."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._counts = torch.zeros(classes, dtype=torch.float64)
        self._origin = self._sums = self._scatter = torch.zeros(0, dtype=torch.float64)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch of features [N, D], any floating dtype, with classes int64 [N]."""
        features = to_float64(features.detach())
        labels = labels.to(features.device)
        if not len(self._sums):
            self._origin = features.mean(dim=0)  # moments about a point nearby lose no digits
            self._counts = self._counts.to(features.device)
            self._sums = features.new_zeros(self._classes, features.shape[1])
            self._scatter = features.new_zeros(features.shape[1], features.shape[1])
        features = features - self._origin
        self._counts += torch.bincount(labels, minlength=self._classes)
        self._sums += torch.nn.functional.one_hot(labels, self._classes).double().T @ features
        self._scatter += features.T @ features

    def gaussian(self, apart: bool = True) -> ClassGaussian:
        """The Gaussian of the classes seen, or of all values where these are not kept `apart`.

        The covariance is that of scikit-learn's EmpiricalCovariance of class-centred features, which deep_Mahalanobis
        fits; directions without variance are left out, as by a pseudo-inverse.
        """
        counts, sums = self._counts.cpu(), self._sums.cpu()
        if not apart:
            counts, sums = counts.sum(dim=0, keepdim=True), sums.sum(dim=0, keepdim=True)
        seen = counts > 0
        means = sums[seen] / counts[seen, None]
        covariance = (self._scatter.cpu() - (means * counts[seen, None]).T @ means) / counts.sum()
        variances, directions = torch.linalg.eigh(covariance)
        kept = variances > variances.abs().amax() * len(variances) * torch.finfo(torch.float64).eps
        means = means + self._origin.cpu()
        mean = means.mean(dim=0)  # nearer to 0, products lose less
        whitening = directions[:, kept] / variances[kept].sqrt()
        parts = (mean, torch.ones_like(mean), torch.flatten(seen.nonzero()), means - mean, whitening)
        return ClassGaussian(*(part.numpy() for part in parts))


@dataclass(frozen=True)
class MahalanobisProbe(Probe):
    """Confidence −½·d² for every feature layer and magnitude m, d the Mahalanobis distance to the closest class mean.

    The image is first moved to x − m·sign(∇ₓ ½·d²), d of the same feature layer: pixels in [0, 1], not clipped, a
    gradient of 0 counts as positive. An image costs one forward pass, and with magnitudes above 0 one backward pass for
    each feature layer and one forward pass up to the feature layer for each pair of a feature layer and a magnitude.
    Class means and covariance come from the classifier's training images (`prepare`).

    Args:
        magnitudes: m, at least 0, each once, in units of pixels in [0, 1]; only 0 means no pre-processing.
        layers: modules to read, each once; by default those of `feature_layer_names`.
        channel_steps: factors of m, one for each channel; None for 1.

    Reference:
        Lee et al. 2018, section 2; deep_Mahalanobis, `lib_generation.py`, which perturbs normalised images.

    Examples:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> probe = MahalanobisProbe(layers=["penultimate"])
        >>> prepared = probe.prepare(network, [(torch.rand(60, 3, 2, 2), torch.arange(60) % 3)])
        >>> prepared(network, torch.rand(5, 3, 2, 2)).shape
        torch.Size([5, 1])
    """

    magnitudes: Sequence[FiniteNonNegative] = (0.0,)
    layers: Sequence[str] | None = None
    channel_steps: Sequence[FinitePositive] | None = None
    version: ClassVar[int] = 2
    needs_preparation: ClassVar[bool] = True
    unprepared: ClassVar[tuple[str, ...]] = ("magnitudes", "channel_steps")

    @property
    @override
    def name(self) -> str:
        name = "mahalanobis/preprocessed" if any(self.magnitudes) else "mahalanobis"
        return f"{name}/{'+'.join(self.layers)}" if self.layers else name

    @override
    def names(self, network: nn.Module) -> list[str]:
        return [f"{layer} m={magnitude:g}" for layer in self.layers or [] for magnitude in self.magnitudes]

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        raise RuntimeError("MahalanobisProbe.prepare comes before the first reading; the probe that it returns reads.")

    @override
    def prepare(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Probe:
        layers, moments = list(self.layers or []), list[Moments]()
        with frozen_network(network), torch.no_grad():
            for images, labels in batches:
                layers = layers or feature_layer_names(network, images)
                logits, features = feature_layer_outputs(network, images, layers)
                moments = moments or [Moments(logits.shape[1]) for _ in layers]
                for moment, values in zip(moments, features, strict=True):
                    moment.add(values, labels)
        gaussians = {layer: moment.gaussian() for layer, moment in zip(layers, moments, strict=True)}
        return PreparedMahalanobisProbe(self.magnitudes, self.layers, self.channel_steps, gaussians=gaussians)


@dataclass(frozen=True, eq=False)
class PreparedMahalanobisProbe(MahalanobisProbe):
    """A `MahalanobisProbe` with the Gaussian of every feature layer."""

    gaussians: Mapping[str, ClassGaussian] = field(kw_only=True)
    needs_preparation: ClassVar[bool] = False

    @override
    def names(self, network: nn.Module) -> list[str]:
        return [f"{layer} m={magnitude:g}" for layer in self.gaussians for magnitude in self.magnitudes]

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Confidences, float64 [N, layers·magnitudes], magnitudes fastest varying; passes in the network's dtype."""
        layers = list(self.gaussians)
        with frozen_network(network):
            images = leaf(images)
            features = zip(layers, feature_layer_outputs(network, images, layers)[1], strict=True)
            columns = [column for part in features for column in self._columns(network, images, *part)]
        return torch.stack(columns, dim=1)

    def _columns(self, network: nn.Module, images: Tensor, layer: str, features: Tensor) -> list[Tensor]:
        confidence = self.gaussians[layer].confidence(features)
        signs = images
        if any(self.magnitudes):
            signs = signs_of(input_gradient(-confidence.sum(), images, keep=True), self.channel_steps)

        def moved(magnitude: float) -> Tensor:
            after = feature_layer_output(network, images - magnitude * signs, layer)
            return self.gaussians[layer].confidence(after)

        with torch.set_grad_enabled(graphs_kept()):  # a step counts as constant
            return [moved(magnitude) if magnitude else confidence.clone() for magnitude in self.magnitudes]


@dataclass(frozen=True)
class Mahalanobis(Detector):
    """Half the squared Mahalanobis distance to the closest class mean, a covariance shared by all classes.

    Alone (`mahalanobis_v`) it is that of the last feature layer. With `preprocessing` (`mahalanobis_p`) images take a
    step towards the closest mean first, of the magnitude with the highest AUROC on `val`, the first of equals. With
    `ensemble` (`mahalanobis_fe`) it is a logistic regression on the distances of all feature layers, fitted on `train`.
    Both together are `mahalanobis_p_fe`. Means and covariances are those of the training images (`data.train`).

    Args:
        preprocessing: whether images take a step first.
        ensemble: whether all feature layers are read.
        magnitudes: the steps to choose among, at least 0, in units of pixels in [0, 1]; without preprocessing not used.
        layers: modules to read, as for `MahalanobisProbe`.
        channel_steps: factors of the steps, one for each channel; None for 1. OpenOOD's MDSEns is one step of 0.0014
            with std / 0.5 (it divides the step of normalised images by 0.5), at the stem alone.
        name: by default one of those above.

    Reference:
        Lee et al. 2018, section 2 and algorithm 1; deep_Mahalanobis, `OOD_Regression_Mahalanobis.py`; OpenOOD,
        `mds_ensemble_postprocessor.py` with `configs/postprocessors/mds_ensemble.yml`.
    """

    preprocessing: bool = False
    ensemble: bool = False
    magnitudes: Sequence[FiniteNonNegative] = (0.0, 0.01, 0.005, 0.002, 0.0014, 0.001, 0.0005)
    layers: list[str] | None = None
    channel_steps: Sequence[FinitePositive] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        suffix = "_p" * self.preprocessing + "_fe" * self.ensemble or "_v"
        object.__setattr__(self, "name", self.name or f"mahalanobis{suffix}")

    @cached_property
    @override
    def probes(self) -> Sequence[MahalanobisProbe]:
        return [MahalanobisProbe(self.magnitudes if self.preprocessing else (0.0,), self.layers, self.channel_steps)]

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        (probe,) = self.probes
        train, val = (records.where(split=split) for split in ("train", "val"))
        count = len(probe.magnitudes)
        tried = [FittedMahalanobis(probe.name, index, count, None) for index in range(count)]
        if self.ensemble:
            values = [train.probe(probe.name)[:, index::count] for index in range(count)]
            tried = [replace(one, logistic=fit_logistic(values[one.index], train.anomalous)) for one in tried]
        return tried[int(np.argmax([auroc(one.score(val), val.anomalous) for one in tried]))]


@dataclass(frozen=True, eq=False)
class FittedMahalanobis(TensorFitted):
    """The number of the best magnitude among how many; the regression over all feature layers of an ensemble."""

    column: str
    index: int
    magnitudes: int
    logistic: Logistic | None

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        confidences = read.probe(self.column)[:, self.index :: self.magnitudes]  # one of each feature layer
        return -confidences[:, -1] if self.logistic is None else self.logistic.score(confidences)


@dataclass(frozen=True)
class RMDS(Detector):
    """Squared Mahalanobis distance of penultimate features to the closest class mean, less that to the mean of all.

    Classes are labels where normal `train` records have them, see `classes_of`. Their covariance is shared and empirical;
    that about the mean of all is another.

    Reference:
        Ren et al. 2021, "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection"; OpenOOD,
        `rmds_postprocessor.py`.
    """

    name: str = "rmds"
    needs_anomalies: ClassVar[bool] = False
    probes: ClassVar[Sequence[Probe]] = (PenultimateProbe(),)
    directions: ClassVar[bool] = False
    """Whether features are divided by their length."""
    relative: ClassVar[bool] = True
    """Whether the distance to the mean of all is subtracted."""

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        normal = normal_training_records(records)
        classes = classes_of(normal) - min(0, classes_of(normal).min())  # −1 stands for no class
        moments = Moments(int(classes.max()) + 1)
        for rows, block in float64_blocks(normal.stored(PenultimateProbe.name)):
            values = torch.from_numpy(block)
            moments.add(unit_length(values) if self.directions else values, torch.from_numpy(classes[rows]))
        background = moments.gaussian(apart=False) if self.relative else None
        return FittedRMDS(self.directions, moments.gaussian(), background)


@dataclass(frozen=True)
class RMDSPP(RMDS):
    """As `RMDS`, with features of unit length (Müller and Hein 2025, "Mahalanobis++"; their code, maha-norm)."""

    name: str = "rmds_pp"
    directions: ClassVar[bool] = True


@dataclass(frozen=True)
class MahalanobisPPPaper(RMDSPP):
    """Squared Mahalanobis distance of penultimate features of unit length to the closest class mean, as in the paper.

    `MahalanobisPP` differs: it takes the predicted class and a shrunk covariance, which few images need.

    Reference:
        Müller and Hein 2025, "Mahalanobis++"; their code, maha-norm, `mdsn_postprocessor.py`.
    """

    name: str = "mahalanobis_pp_paper"
    relative: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class FittedRMDS(TensorFitted):
    """Normal features by class and, where the distance is relative, all together; `directions` as in `RMDS`."""

    directions: bool
    gaussian: ClassGaussian
    background: ClassGaussian | None

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        values = unit_length(read.features) if self.directions else read.features
        distances = -2 * self.gaussian.confidence(values)
        return distances if self.background is None else distances + 2 * self.background.confidence(values)
