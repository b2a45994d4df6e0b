"""Small steps of images along the sign of a gradient, and the grids of their sizes, for ODIN and Mahalanobis."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gradood.core import Refusal


def validated_grid(name: str, values: Sequence[float], *, positive: bool = False) -> tuple[float, ...]:
    """A grid's values as floats; a Refusal if there are none, or one repeats, is below 0 or not finite.

    Args:
        name: the setting's, for the message.
        values: the grid.
        positive: whether 0 is refused too.
    """
    found = tuple(float(value) for value in values)
    fit = all(math.isfinite(value) and (value > 0 or (value == 0 and not positive)) for value in found)
    if not found or len(set(found)) < len(found) or not fit:
        range_ = "positive" if positive else "at least 0, in units of pixels in [0, 1],"
        raise Refusal(
            f"`{name}` should be one or more different numbers, each {range_} and finite. "
            f"Got `{name} = {list(found)}`. Write e.g. {[1.0, 1000.0] if positive else [0.0, 0.0014]}."
        )
    return found


def signs_of(gradient: Tensor) -> Tensor:
    """Return 1 where the gradient is 0 or more, −1 elsewhere, as odin and deep_Mahalanobis do with `torch.ge`."""
    one = torch.ones((), dtype=gradient.dtype, device=gradient.device)
    return torch.where(gradient >= 0, one, -one)


def leaf(images: Tensor) -> Tensor:
    """Return a copy of the images whose gradient can be taken, also of those made in inference mode."""
    return images.detach().clone().requires_grad_()
