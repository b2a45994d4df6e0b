"""Perturbations without gradients: the negative of an image (Semantic), and noise of the same L2 norm as an attack."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_gradood.core import image_generator, to_float64
from lightning_gradood.perturbations.perturbation import Crafted, Perturbation


class Semantic(Perturbation):
    """Negative images, 1 − x; there is nothing to set, and the network is not run.

    Reference:
        Hosseini and Poovendran 2018, Semantic Adversarial Examples.
    """

    passes = 0

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        return 1 - images, None


_HALVINGS = 40  # of the interval that the scale lies in; float32 has 24 bits
_LARGEST = 1e3  # standard deviations in pixels of [0, 1] beyond which clipping leaves nothing to gain


def noise_like(crafted: Crafted, ids: Sequence[str], seed: int = 0) -> Crafted:
    """Change the clean images by Gaussian noise of the same L2 norm, after clipping to [0, 1].

    Where the clean image's own pixels allow no change of that norm along the drawn noise, it is as near as possible.

    Args:
        crafted: What an attack made; its norms are copied, image by image.
        ids: A name for each image; it and `seed` decide the noise.

    Returns:
        Noisy images of the same dtype in [0, 1], with the same clean images and labels, and without targets.

    Reference:
        Lee et al. 2018, A Simple Unified Framework, section 3.2: noisy samples are normal in the adversarial setting.
    """
    clean = crafted.clean
    drawn = [
        torch.randn(clean.shape[1:], generator=image_generator(seed, f"{name}/noise"), dtype=torch.float64)
        for name in ids
    ]
    noise = torch.stack(drawn).to(clean)
    wanted = _norms(crafted.images, clean)
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, _LARGEST)
    for _ in range(_HALVINGS):  # the norm grows with the scale
        middle = (low + high) / 2
        enough = _norms(_noisy(clean, noise, middle), clean) >= wanted
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return replace(crafted, images=_noisy(clean, noise, low), targets=None)


def _noisy(clean: Tensor, noise: Tensor, scale: Tensor) -> Tensor:
    return (clean + scale.to(clean).view(-1, *[1] * (clean.ndim - 1)) * noise).clamp(0, 1)


def _norms(images: Tensor, clean: Tensor) -> Tensor:
    return (to_float64(images) - to_float64(clean)).flatten(1).square().sum(1).sqrt()
