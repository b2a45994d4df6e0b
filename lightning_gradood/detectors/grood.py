"""GROOD: nearest neighbours of the gradient by an outlier prototype, at which features of noise images lie."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.special import softmax
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import PositiveInt, Seed, frozen_network
from lightning_gradood.detectors.detector import Detector, Fitted, classes_of, float64_blocks, normal_training_records
from lightning_gradood.detectors.neighbours import BANK, Neighbours, bank
from lightning_gradood.probes import PENULTIMATE, PenultimateProbe, Probe, feature_layer_outputs
from lightning_gradood.records import Records

_TENTH = 10  # of the noise images, those with the highest energy, are averaged


@dataclass(frozen=True)
class FromNoiseProbe(PenultimateProbe):
    """Penultimate features minus the mean of those of noise images, the outlier prototype, [N, D].

    The noise is uniform in [0, 1] and blurred; of every 100 images the ten of which the network is least sure, with the
    lowest logsumexp, are averaged. OpenOOD gives the network such noise without its normalisation; here it has it.

    Args:
        images: of noise, in hundreds.
        seed: of the noise.
    """

    images: PositiveInt = 100
    seed: Seed = 0
    name: ClassVar[str] = "features/penultimate/from_noise"
    needs_preparation: ClassVar[bool] = True

    @override
    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        raise RuntimeError("FromNoiseProbe.prepare comes before the first reading; the probe that it returns reads.")

    @override
    def prepare(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Probe:
        from torchvision.transforms import GaussianBlur  # takes as long to import as torch

        (some, _), found = next(iter(batches)), list[Tensor]()
        with frozen_network(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for _ in range(-(-self.images // 100)):
                noise = GaussianBlur(kernel_size=(5, 7), sigma=(0.2, 5))(torch.rand(100, *some.shape[1:]))
                logits, (features,) = feature_layer_outputs(network, noise.to(some), [PENULTIMATE])
                found.append(features[logits.logsumexp(dim=1).argsort()[:_TENTH]])
        return PreparedFromNoiseProbe(self.images, self.seed, origin=torch.cat(found).mean(dim=0).cpu().numpy())


@dataclass(frozen=True, eq=False)
class PreparedFromNoiseProbe(FromNoiseProbe):
    """A `FromNoiseProbe` with the outlier prototype."""

    origin: np.ndarray = field(kw_only=True)
    needs_preparation: ClassVar[bool] = False

    @override
    def from_layers(self, network: nn.Module, logits: Tensor, layers: Sequence[Tensor]) -> Tensor:
        return layers[0] - torch.from_numpy(self.origin).to(layers[0])


def prototype_gradient(features: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """Gradient of the nearest-centroid loss by the outlier prototype, which is the origin, float64 [n, D].

    The loss is the cross entropy of the softmax over −‖h − p_c‖ for all prototypes and the origin, for a class c: its
    gradient by the origin, softmax_0 · h / ‖h‖, is the same for all c.

    Args:
        features: relative to the outlier prototype, h, [n, D].
        prototypes: of the classes, relative to it too, [C, D].
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    share = softmax(-np.concatenate([lengths, cdist(features, prototypes)], axis=1), axis=1)[:, :1]
    return np.asarray(share * features / np.maximum(lengths, np.finfo(np.float64).tiny))


@dataclass(frozen=True)
class GROOD(Detector):
    """Distance of the gradient by an outlier prototype to the nearest one of normal images, see `prototype_gradient`.

    Class prototypes are means of normal `train` records; neighbours are those of them that are classified correctly, or
    have no label. The outlier prototype is of noise; OpenOOD's default, the mean of validation outliers, needs anomalies.

    Args:
        noise: what reads the features.
        megabytes: of neighbours that are kept, drawn by the seed where there are more.

    Reference:
        ElAraby, Sahoo, Pequignot, Novello, Paull 2025, "GROOD: GRadient-Aware Out-of-Distribution Detection"; OpenOOD's
        `grood`, which takes squares.
    """

    noise: FromNoiseProbe = field(default_factory=FromNoiseProbe)
    megabytes: PositiveInt = BANK
    name: str = "grood"
    needs_anomalies: ClassVar[bool] = False

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return [self.noise]

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        normal = normal_training_records(records)
        features, classes = normal.stored(self.noise.name), classes_of(normal)
        known = np.unique(classes)
        prototypes = np.stack([features[classes == one].mean(axis=0, dtype=np.float64) for one in known])
        label = normal.column("label")
        right = np.flatnonzero((label < 0) | (label == normal.column("prediction")))
        kept = features[bank(features, self.megabytes, seed, right if len(right) else None)]
        rows = np.concatenate([prototype_gradient(block, prototypes) for _, block in float64_blocks(kept)])
        return FittedGROOD(self.noise.name, prototypes, Neighbours(rows.astype(np.result_type(kept, np.float32)), 1))


@dataclass(frozen=True, eq=False)
class FittedGROOD(Fitted):
    """Class prototypes, and the gradients of normal images."""

    column: str
    prototypes: np.ndarray
    neighbours: Neighbours

    @override
    def score(self, records: Records) -> np.ndarray:
        rows = prototype_gradient(records.probe(self.column), self.prototypes)
        return np.asarray(self.neighbours.distance(torch.from_numpy(rows)).numpy())
