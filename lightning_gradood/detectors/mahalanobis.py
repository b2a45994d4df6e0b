"""Mahalanobis: the distance of features to the nearest class mean, plain, after a step, or over all layers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    Refusal,
    exact_arithmetic,
    frozen_network,
    input_gradient,
    to_float64,
    to_float64_device,
)
from lightning_gradood.detectors.detector import Detector
from lightning_gradood.detectors.logistic import Logistic, fit_logistic
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import (
    Probe,
    feature_layer_names,
    feature_layer_output,
    feature_layer_outputs,
    leaf,
    signs_of,
    validated_grid,
)
from lightning_gradood.records import Records


@dataclass(frozen=True)
class TiedGaussians:
    """One mean for each class and a shared covariance Σ, kept as W with W·Wᵀ = Σ⁺."""

    means: Tensor  # float64 [C, D]
    whitening: Tensor  # W, float64 [D, rank of Σ]

    def confidence(self, features: Tensor) -> Tensor:
        """−½·d² to the closest mean, float64 [N], for features [N, D]; gradients flow to the features.

        Lee et al. 2018, Eq. 2, with the factor ½ of their code.
        """
        centre = self.means.mean(dim=0)  # nearer to 0, products lose less
        white = (to_float64(features) - centre) @ self.whitening
        means = (self.means - centre) @ self.whitening
        with torch.no_grad():
            distances = torch.cdist(white, means, compute_mode="donot_use_mm_for_euclid_dist")
            closest = means[distances.argmin(dim=1)]
        return -0.5 * (white - closest).square().sum(dim=1)

    def to(self, device: torch.device) -> "TiedGaussians":
        """The same on a device."""
        return TiedGaussians(self.means.to(device), self.whitening.to(device))


class Moments:
    """Sums from which tied Gaussians of at most `classes` classes are made, added up batch by batch in float64."""

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

    def gaussians(self) -> TiedGaussians:
        """The Gaussians of the classes seen, on the CPU.

        The covariance is that of scikit-learn's EmpiricalCovariance of class-centred features, which deep_Mahalanobis
        fits; directions without variance are left out, as by a pseudo-inverse.
        """
        counts, sums = self._counts.cpu(), self._sums.cpu()
        seen = counts > 0
        means = sums[seen] / counts[seen, None]
        covariance = (self._scatter.cpu() - (means * counts[seen, None]).T @ means) / counts.sum()
        variances, directions = torch.linalg.eigh(covariance)
        kept = variances > variances.abs().amax() * len(variances) * torch.finfo(torch.float64).eps
        return TiedGaussians(means + self._origin.cpu(), directions[:, kept] / variances[kept].sqrt())


class MahalanobisProbe(Probe):
    """Confidence −½·d² for every feature layer and magnitude m, d the Mahalanobis distance to the closest class mean.

    The image is first moved to x − m·sign(∇ₓ ½·d²), d of the same feature layer: pixels in [0, 1], not clipped, a
    gradient of 0 counts as positive. An image costs one forward pass, and with magnitudes above 0 one backward pass for
    each feature layer and one forward pass up to the feature layer for each pair of a feature layer and a magnitude:
    with Lee et al.'s grid and five feature layers 1 whole and 30 shorter forward passes and 5 backward passes. Class
    means and covariance come from the classifier's training images (`prepare`).

    Args:
        magnitudes: m, at least 0, each once, in units of pixels in [0, 1]; only 0 means no pre-processing.
        layers: modules to read, each once; by default those of `feature_layer_names`.

    Reference:
        Lee et al. 2018, section 2; deep_Mahalanobis, `lib_generation.py`, which perturbs normalised images.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> probe = MahalanobisProbe(layers=["penultimate"])
        >>> probe.load(probe.prepare(network, [(torch.rand(60, 3, 2, 2), torch.arange(60) % 3)]))
        >>> probe(network, torch.rand(5, 3, 2, 2)).shape
        torch.Size([5, 1])
    """

    needs_preparation = True

    def __init__(self, magnitudes: Sequence[float] = (0.0,), layers: Sequence[str] | None = None) -> None:
        self.magnitudes = validated_grid("magnitudes", magnitudes)
        if layers is not None and (not layers or len(set(layers)) < len(layers)):
            raise Refusal(
                f"`layers` should name different modules, at least one. Got `layers = {layers}`. Leave it out for the usual ones."
            )
        self.layers = None if layers is None else list(layers)
        self._gaussians: dict[str, TiedGaussians] = {}

    @property
    @override
    def name(self) -> str:
        name = "mahalanobis/preprocessed" if any(self.magnitudes) else "mahalanobis"
        return name if self.layers is None else f"{name}/{'+'.join(self.layers)}"

    @override
    def names(self, network: nn.Module) -> list[str]:
        return [f"{layer} m={magnitude:g}" for layer in self._layers(network) for magnitude in self.magnitudes]

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Confidences, float64 [N, layers·magnitudes], magnitudes fastest varying; passes in the network's dtype."""
        layers = self._layers(network)
        if set(layers) - set(self._gaussians):
            raise RuntimeError("MahalanobisProbe.load comes before the first reading, with what prepare gave.")
        with exact_arithmetic(), frozen_network(network):
            images = leaf(images)
            features = feature_layer_outputs(network, images, layers)[1]
            columns = [
                column
                for layer, values in zip(layers, features, strict=True)
                for column in self._columns(network, images, layer, values)
            ]
        return torch.stack(columns, dim=1)

    @override
    def prepare(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        layers = self._layers(network)
        moments: list[Moments] = []
        with exact_arithmetic(), frozen_network(network), torch.no_grad():
            for images, labels in batches:
                logits, features = feature_layer_outputs(network, images, layers)
                _refuse_foreign_labels(labels, logits.shape[1])
                moments = moments or [Moments(logits.shape[1]) for _ in layers]
                for moment, values in zip(moments, features, strict=True):
                    moment.add(values, labels)
        if not moments:
            raise Refusal("`batches` should hold training images. Got none. Give the images the network learnt from.")
        fitted = [moment.gaussians() for moment in moments]
        parts = [{"means": gaussian.means, "whitening": gaussian.whitening} for gaussian in fitted]
        return {f"{layer}/{name}": part[name] for layer, part in zip(layers, parts, strict=True) for name in part}

    @override
    def load(self, state: dict[str, Tensor]) -> None:
        with torch.inference_mode(False):  # tensors read in inference mode cannot take part in a backward pass
            own = {name: tensor.clone() for name, tensor in state.items()}
        layers = [name.removesuffix("/means") for name in own if name.endswith("/means")]
        self._gaussians = {layer: TiedGaussians(own[f"{layer}/means"], own[f"{layer}/whitening"]) for layer in layers}

    @override
    def describe_preparation(self) -> dict[str, object]:
        described = self.describe()  # without the magnitudes, which play no part in it
        return {name: described[name] for name in ("probe", "version", "feature layers")}

    @override
    def describe(self) -> dict[str, object]:
        return super().describe() | {"magnitudes": list(self.magnitudes), "feature layers": self.layers}

    def _layers(self, network: nn.Module) -> list[str]:
        return feature_layer_names(network) if self.layers is None else self.layers

    def _columns(self, network: nn.Module, images: Tensor, layer: str, features: Tensor) -> list[Tensor]:
        gaussian = self._gaussians[layer] = self._gaussians[layer].to(to_float64_device(images[:0]).device)
        confidence = gaussian.confidence(features)
        signs = None
        if any(self.magnitudes):
            signs = signs_of(input_gradient(-confidence.sum(), images, keep=True))
        columns = []
        with torch.no_grad():
            for magnitude in self.magnitudes:
                if signs is None or magnitude == 0:
                    columns.append(confidence.detach())
                    continue
                columns.append(gaussian.confidence(feature_layer_output(network, images - magnitude * signs, layer)))
        return columns


def _refuse_foreign_labels(labels: Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise Refusal(
            f"The training images' classes should be 0 to {classes - 1}, as the network has {classes} outputs. "
            f"Got classes {low} to {high}. Give the images that the network was trained on."
        )


_MAGNITUDES = (0.0, 0.01, 0.005, 0.002, 0.0014, 0.001, 0.0005)


@dataclass(frozen=True)
class _Fit:
    index: int  # of the magnitude
    logistic: Logistic | None  # over all feature layers; None where the last one is enough


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

    Reference:
        Lee et al. 2018, section 2 and algorithm 1; deep_Mahalanobis, `OOD_Regression_Mahalanobis.py`.
    """

    name = "mahalanobis_v"

    def __init__(
        self,
        preprocessing: bool = False,
        ensemble: bool = False,
        magnitudes: Sequence[float] = _MAGNITUDES,
        layers: list[str] | None = None,
        name: str | None = None,
    ) -> None:
        self.preprocessing, self.ensemble, self.magnitudes, self.layers = preprocessing, ensemble, magnitudes, layers
        self._probe = MahalanobisProbe(magnitudes if preprocessing else (0.0,), layers)
        suffix = "_p" * preprocessing + "_fe" * ensemble or "_v"
        self.name = name or f"mahalanobis{suffix}"
        self._fit: _Fit | None = None

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return [self._probe]

    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        val = records.where(split="val")
        best = -1.0
        for index in range(len(self._probe.magnitudes)):
            fit = _Fit(index, self._regression(records.where(split="train"), index) if self.ensemble else None)
            value = auroc(self._scores(val, fit), val.anomalous)
            if value > best:
                best, self._fit = value, fit
        return []

    @override
    def score(self, records: Records) -> np.ndarray:
        return self._scores(records, self._fitted(self._fit))

    @override
    def state_dict(self) -> dict[str, Tensor]:
        fit = self._fitted(self._fit)
        magnitude = self._probe.magnitudes[fit.index]
        chosen = {"magnitude": torch.tensor(magnitude), "index": torch.tensor(fit.index)}
        return chosen if fit.logistic is None else chosen | fit.logistic.state_dict()

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._fit = _Fit(int(state["index"]), Logistic.from_state_dict(state) if self.ensemble else None)

    def _scores(self, records: Records, fit: _Fit) -> np.ndarray:
        confidences = self._confidences(records, fit.index)
        return -confidences[:, -1] if fit.logistic is None else fit.logistic.score(confidences)

    def _regression(self, train: Records, index: int) -> Logistic:
        return fit_logistic(self._confidences(train, index), train.anomalous)

    def _confidences(self, records: Records, index: int) -> np.ndarray:
        """Of every feature layer for one magnitude, [n, feature layers]."""
        return records.probe(self._probe.name)[:, index :: len(self._probe.magnitudes)]
