"""One small step of each image along the sign of a gradient, as input pre-processing takes it."""

import torch
from torch import Tensor


def signs_of(gradient: Tensor) -> Tensor:
    """Return 1 where the gradient is 0 or more, −1 elsewhere.

    Reference:
        odin, `calData.py`, and deep_Mahalanobis, `lib_generation.py`: `torch.ge(gradient, 0)`, then (· − .5) · 2.
    """
    one = torch.ones((), dtype=gradient.dtype, device=gradient.device)
    return torch.where(gradient >= 0, one, -one)


def leaf(images: Tensor) -> Tensor:
    """Return a copy of the images whose gradient can be taken, also of those made in inference mode."""
    return images.detach().clone().requires_grad_()
