"""Mahalanobis' probe: how near each tap of an image is to that of its closest class, with input pre-processing.

Mahalanobis: how far are an image's features from those of the nearest class?
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal, exact_arithmetic, frozen_network
from lightning_gradood.detectors.detector import Detector
from lightning_gradood.detectors.logistic import Logistic, fit_logistic
from lightning_gradood.metrics import auroc
from lightning_gradood.probes import (
    Moments,
    Probe,
    TiedGaussians,
    checked_grid,
    leaf,
    signs_of,
    tap_names,
    tap_of,
    tapped,
)
from lightning_gradood.records import Records


class MahalanobisProbe(Probe):
    """Confidence −½·d² of each tap, d being the Mahalanobis distance to the closest class mean, for every magnitude m.

    The image is first moved to x − m·sign(∇ₓ ½·d²), d of the same tap: pixels in [0, 1], not clipped, a gradient of 0
    counts as positive. An image costs one forward pass, and with magnitudes above 0 one backward pass for each tap and
    one forward pass up to the tap for each pair of a tap and a magnitude: with Lee et al.'s grid and five taps 1 whole
    and 30 shorter forward passes and 5 backward passes. Class means and covariance come from the classifier's training
    images (`prepare`).

    Args:
        magnitudes: m, at least 0, in units of pixels in [0, 1]; only 0 means no pre-processing.
        taps: modules to read; by default those of `tap_names`.

    Raises:
        Refusal: if the grid or `taps` is empty, repeats a value or holds one out of range.

    Reference:
        Lee et al. 2018, section 2; deep_Mahalanobis, `lib_generation.py`, which perturbs normalised images.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> probe = MahalanobisProbe(taps=["penultimate"])
        >>> probe.load(probe.prepare(network, [(torch.rand(60, 3, 2, 2), torch.arange(60) % 3)]))
        >>> probe(network, torch.rand(5, 3, 2, 2)).shape
        torch.Size([5, 1])
    """

    needs_preparation = True

    def __init__(self, magnitudes: Sequence[float] = (0.0,), taps: Sequence[str] | None = None) -> None:
        self.magnitudes = checked_grid("magnitudes", magnitudes)
        if taps is not None and (not taps or len(set(taps)) < len(taps)):
            raise Refusal(
                f"`taps` should name different modules, at least one. Got `taps = {taps}`. Leave it out for the usual ones."
            )
        self.taps = None if taps is None else list(taps)
        self._gaussians: dict[str, TiedGaussians] = {}

    @property
    def name(self) -> str:
        """`mahalanobis`, with any magnitude above 0 `mahalanobis/preprocessed`, then the taps that the user named."""
        name = "mahalanobis/preprocessed" if any(self.magnitudes) else "mahalanobis"
        return name if self.taps is None else f"{name}/{'+'.join(self.taps)}"

    def names(self, network: nn.Module) -> list[str]:
        """Tap and magnitude of each column."""
        return [f"{tap} m={magnitude:g}" for tap in self._taps(network) for magnitude in self.magnitudes]

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Confidences, float64 [N, taps·magnitudes], magnitudes varying fastest; passes are in the network's dtype."""
        taps = self._taps(network)
        if set(taps) - set(self._gaussians):
            raise RuntimeError("MahalanobisProbe.load comes before the first reading, with what prepare gave.")
        with exact_arithmetic(), frozen_network(network):
            images = leaf(images)
            features = tapped(network, images, taps)[1]
            columns = [
                column
                for tap, values in zip(taps, features, strict=True)
                for column in self._columns(network, images, tap, values)
            ]
        return torch.stack(columns, dim=1)

    def prepare(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Fit the class means and the tied covariance of every tap; see `Probe.prepare`.

        Raises:
            Refusal: if there are no images, or one's class is none of the network's outputs.
        """
        taps = self._taps(network)
        moments: list[Moments] = []
        with exact_arithmetic(), frozen_network(network), torch.no_grad():
            for images, labels in batches:
                logits, features = tapped(network, images, taps)
                _refuse_foreign_labels(labels, logits.shape[1])
                moments = moments or [Moments(logits.shape[1]) for _ in taps]
                for moment, values in zip(moments, features, strict=True):
                    moment.add(values, labels)
        if not moments:
            raise Refusal("`batches` should hold training images. Got none. Give the images the network learnt from.")
        fitted = [moment.gaussians() for moment in moments]
        parts = [{"means": gaussian.means, "whitening": gaussian.whitening} for gaussian in fitted]
        return {f"{tap}/{name}": part[name] for tap, part in zip(taps, parts, strict=True) for name in part}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take the Gaussians of every tap."""
        with torch.inference_mode(False):  # tensors read in inference mode cannot take part in a backward pass
            own = {name: tensor.clone() for name, tensor in state.items()}
        taps = [name.removesuffix("/means") for name in own if name.endswith("/means")]
        self._gaussians = {tap: TiedGaussians(own[f"{tap}/means"], own[f"{tap}/whitening"]) for tap in taps}

    def describe_preparation(self) -> dict[str, object]:
        """The taps: magnitudes play no part in it."""
        described = self.describe()
        return {name: described[name] for name in ("probe", "version", "taps")}

    def describe(self) -> dict[str, object]:
        """Add magnitudes and taps."""
        return super().describe() | {"magnitudes": list(self.magnitudes), "taps": self.taps}

    def _taps(self, network: nn.Module) -> list[str]:
        return tap_names(network) if self.taps is None else self.taps

    def _columns(self, network: nn.Module, images: Tensor, tap: str, features: Tensor) -> list[Tensor]:
        gaussian = self._gaussians[tap] = self._gaussians[tap].to(images.device)
        confidence = gaussian.confidence(features)
        signs = None
        if any(self.magnitudes):
            (gradient,) = torch.autograd.grad(-confidence.sum(), images, retain_graph=True)
            signs = signs_of(gradient)
        columns = []
        with torch.no_grad():
            for magnitude in self.magnitudes:
                if signs is None or magnitude == 0:
                    columns.append(confidence.detach())
                    continue
                columns.append(gaussian.confidence(tap_of(network, images - magnitude * signs, tap)))
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
    """What `fit` has learnt: which magnitude, and over all taps the regression, or None where the last tap is enough."""

    index: int
    logistic: Logistic | None


class Mahalanobis(Detector):
    """Half the squared Mahalanobis distance to the closest class mean, a covariance shared by all classes.

    Alone (`mahalanobis_v`) it is that of the last tap. With `preprocessing` (`mahalanobis_p`) images take a step towards
    the closest mean first, of the magnitude with the highest AUROC on `val`, the first of equals. With `ensemble`
    (`mahalanobis_fe`) it is a logistic regression on the distances of all taps, fitted on `train`. Both together are
    `mahalanobis_p_fe`. Means and covariances are those of the classifier's training images, so `data.train` must be given.

    Args:
        preprocessing: whether images take a step first.
        ensemble: whether all taps are read.
        magnitudes: the steps to choose among, at least 0, in units of pixels in [0, 1]; without preprocessing not used.
        taps: modules to read, as for `MahalanobisProbe`.
        name: in tables, files and W&B keys; by default as above.

    Reference:
        Lee et al. 2018, section 2 and algorithm 1; deep_Mahalanobis, `OOD_Regression_Mahalanobis.py`.
    """

    def __init__(
        self,
        preprocessing: bool = False,
        ensemble: bool = False,
        magnitudes: Sequence[float] = _MAGNITUDES,
        taps: list[str] | None = None,
        name: str | None = None,
    ) -> None:
        self.ensemble = ensemble
        self._probe = MahalanobisProbe(magnitudes if preprocessing else (0.0,), taps)
        suffix = "_p" * preprocessing + "_fe" * ensemble or "_v"
        self._name = name or f"mahalanobis{suffix}"
        self._fit: _Fit | None = None

    @property
    def name(self) -> str:
        """`mahalanobis_v`, `_p`, `_fe` or `_p_fe`, unless it was given another."""
        return self._name

    @property
    def probes(self) -> Sequence[Probe]:
        """The distances of every tap, for every magnitude."""
        return [self._probe]

    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Fit the regressions on `train`, choose the magnitude on `val`; see `Detector.fit`."""
        val = records.where(split="val")
        best = -1.0
        for index in range(len(self._probe.magnitudes)):
            fit = _Fit(index, self._regression(records.where(split="train"), index) if self.ensemble else None)
            value = auroc(self._scores(val, fit), val.anomalous)
            if value > best:
                best, self._fit = value, fit
        return []

    def score(self, records: Records) -> np.ndarray:
        """Half squared distances, or with `ensemble` logits; float64 [n]."""
        return self._scores(records, self._fitted())

    def state(self) -> dict[str, Tensor]:
        """The magnitude that was chosen, and the regression if there is one."""
        fit = self._fitted()
        chosen = {"magnitude": torch.tensor(self._probe.magnitudes[fit.index])}
        return chosen if fit.logistic is None else chosen | fit.logistic.state()

    def _scores(self, records: Records, fit: _Fit) -> np.ndarray:
        confidences = self._confidences(records, fit.index)
        return -confidences[:, -1] if fit.logistic is None else fit.logistic.score(confidences)

    def _regression(self, train: Records, index: int) -> Logistic:
        return fit_logistic(self._confidences(train, index), train.anomalous)

    def _confidences(self, records: Records, index: int) -> np.ndarray:
        """Of every tap for one magnitude, [n, taps]."""
        return records.probe(self._probe.name)[:, index :: len(self._probe.magnitudes)]

    def _fitted(self) -> _Fit:
        if self._fit is None:
            raise RuntimeError("Mahalanobis.fit comes before score and state.")
        return self._fit
