"""An attack and a corruption of your own; both are perturbations of normal images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gradood.core import image_generator
from lightning_gradood.perturbations import Perturbation


class EuclideanStep(Perturbation):
    """One step of a given length along the gradient of the loss.

    Args:
        length: L2 norm of the change, pixels in [0, 1].
    """

    def __init__(self, length: float = 1.0) -> None:
        self.length = length  # each argument is kept under its own name: it is part of the records' key

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        pixels = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(network(pixels), labels, reduction="sum"), pixels)
        norms = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        return (images + self.length * gradient / norms).clamp(0, 1), None  # no target class


class DeadColumns(Perturbation):
    """Columns of a broken sensor: black, at places drawn for each image.

    Args:
        columns: how many.
        seed: of the places.
    """

    def __init__(self, columns: int = 3, seed: int = 0) -> None:
        self.columns, self.seed = columns, seed

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        made = images.clone()
        for image, name in zip(made, ids, strict=True):
            draws = image_generator(
                self.seed, name
            )  # by id: the order of images and the number of processes do not matter
            image[..., torch.randperm(image.shape[-1], generator=draws)[: self.columns]] = 0.0
        return made, None
