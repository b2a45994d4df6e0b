"""GradPCA: how much of an image's gradient lies in the directions in which the classes' mean gradients differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import OpenUnitInterval, Refusal, exact_arithmetic, frozen_network, to_float64
from lightning_gradood.detectors.detector import FixedDetector
from lightning_gradood.gradients import layer_gradients
from lightning_gradood.probes import Probe
from lightning_gradood.records import Records

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def largest_logit(logits: Tensor) -> Tensor:
    """Gradient of the largest logit by the logits, [N, C]."""
    return torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits)


def parameters_of(network: nn.Module, images: Tensor, layer: str | None) -> list[str]:
    """Names of the parameters of a module, by default of the linear layer or convolution that runs before the last one."""
    ran, modules = list[str](), dict(network.named_modules())
    if layer is None:
        kept = [(name, one) for name, one in modules.items() if isinstance(one, _LAYERS)]
        handles = [one.register_forward_hook(partial(lambda name, *_: ran.append(name), name)) for name, one in kept]
        try:
            with frozen_network(network), torch.no_grad():
                network(images[:2])
        finally:
            for handle in handles:
                handle.remove()
    place = layer if layer is not None else next(iter(ran[-2:]), "")
    if place not in modules or not list(modules[place].parameters()):
        raise Refusal(
            f"`layer` of GradPCA should be a module of the network that has parameters. Got {place!r}. Its children are "
            f"{[child for child, _ in network.named_children()]}; leave it out for the last hidden layer."
        )
    return [f"{place}.{name}".lstrip(".") for name, _ in modules[place].named_parameters()]


@dataclass(frozen=True)
class GradPCAProbe(Probe):
    """cos∠(g, P g), float64 [N, 1], of the gradient g of the largest logit, less the mean of all classes' mean gradients.

    P projects on principal directions of the classes' mean gradients. These come from the classifier's training images
    and labels (`prepare`), and take memory for one gradient of `layer` a class.

    Args:
        layer: the module in whose parameters gradients are taken; by default the last hidden layer.
        share: of the variance of the mean gradients that the directions explain.

    Reference:
        Seleznova, Chou, Mayrink Verdun, Kutyniok 2026, "GradPCA", as reviewed: its defaults, and P by the eigenvectors of
        the classes' Gram matrix. Its code is said to add up all logits and to give the square; it could not be compared.
    """

    layer: str | None = None
    share: OpenUnitInterval = 0.99
    needs_preparation: ClassVar[bool] = True

    @property
    @override
    def name(self) -> str:
        return f"gradpca/{self.layer}" if self.layer else "gradpca"

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        raise RuntimeError("GradPCAProbe.prepare comes before the first reading; the probe that it returns reads.")

    @override
    def prepare(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Probe:
        names, sums, counts = list[str](), dict[int, Tensor](), dict[int, int]()
        for images, labels in batches:
            names = names or parameters_of(network, images, self.layer)
            gradients = layer_gradients(network, images, names, largest_logit)
            for label in sorted(set(labels.tolist())):
                rows = labels == label
                sums[label] = sums.get(label, 0) + gradients[rows].cpu().sum(dim=0, dtype=torch.float64)
                counts[label] = counts.get(label, 0) + int(rows.sum())
        means = torch.stack([sums.pop(label) / counts[label] for label in sorted(sums)])
        centre = means.mean(dim=0)
        means -= centre
        variances, vectors = torch.linalg.eigh(means @ means.T)
        variances, vectors = variances.flip(0).clamp(min=0), vectors.flip(1)
        explained = variances.cumsum(dim=0) / variances.sum()
        kept = min(int((explained < self.share).sum()) + 1, int((variances > 1e-12 * variances[0]).sum()))
        directions = means.T @ vectors[:, :kept] / variances[:kept].sqrt()
        learnt = {"centre": centre.float().numpy(), "directions": directions.float().numpy()}
        return PreparedGradPCAProbe(self.layer, self.share, names_of_parameters=names, **learnt)


@dataclass(frozen=True, eq=False)
class PreparedGradPCAProbe(GradPCAProbe):
    """A `GradPCAProbe` with the names of P parameters, the mean, [P], and orthonormal directions [P, k], both float32."""

    names_of_parameters: Sequence[str] = field(kw_only=True)
    centre: np.ndarray = field(kw_only=True)
    directions: np.ndarray = field(kw_only=True)
    needs_preparation: ClassVar[bool] = False

    @override
    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        with exact_arithmetic():
            return self._cosines(layer_gradients(network, images, self.names_of_parameters, largest_logit))[:, None]

    def _cosines(self, gradients: Tensor) -> Tensor:
        centred = gradients - torch.from_numpy(self.centre).to(gradients)
        inside = to_float64(centred @ torch.from_numpy(self.directions).to(gradients)).square().sum(dim=1)
        whole = to_float64(centred).square().sum(dim=1)
        return (inside / whole).sqrt().where(whole > 0, 1.0)


@dataclass(frozen=True)
class GradPCA(FixedDetector):
    """Minus the cosine of the angle between an image's gradient and its projection, in [−1, 0], see `GradPCAProbe`.

    Args:
        layer, share: as for `GradPCAProbe`.
    """

    layer: str | None = None
    share: OpenUnitInterval = 0.99
    name: str = "gradpca"

    @cached_property
    @override
    def probes(self) -> Sequence[GradPCAProbe]:
        return [GradPCAProbe(self.layer, self.share)]

    @override
    def score(self, records: Records) -> np.ndarray:
        return -records.probe(self.probes[0].name)[:, 0]
