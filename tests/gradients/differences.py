"""A truth that shares nothing with autograd: central differences of the loss, in float64."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from . import truth

_STEP = 1e-6  # below it float64 loses digits of the difference, above it more ReLUs are crossed


def slopes(network: nn.Module, image: Tensor, directions: list[Tensor]) -> Tensor:
    """Slope of one image's all-ones loss along a direction for each parameter, float64 [L]; the image is [1, ...].

    The network sees two copies of the image, because torch's kernels for a batch of one are what may be wrong.
    """
    network = copy.deepcopy(network).double().eval()
    found = []
    with torch.no_grad():
        for parameter, direction in zip(network.parameters(), directions, strict=True):
            kept, values = parameter.clone(), []
            for sign in (1.0, -1.0):
                parameter.copy_(kept + sign * _STEP * direction)
                values.append(truth.all_ones(network(torch.cat([image, image]))[:1]))
            parameter.copy_(kept)
            found.append((values[0] - values[1]) / (2 * _STEP))
    return torch.stack(found)


def assert_slopes(network: nn.Module, image: Tensor, norms: Tensor, tolerance: float = 1e-5) -> None:
    """Squared norms float64 [L] are those of a gradient that has the loss's slopes.

    Along the gradient of `truth`, scaled to length 1, the slope is the gradient's length; along a random direction it is
    the gradient's share in it. A gradient that is too short, too long or points elsewhere fails one of the two.
    """
    gradients = truth.gradients(network, image)
    lengths = torch.stack([gradient.norm() for gradient in gradients])
    bound = tolerance * lengths + 1e-9 * lengths.max()
    along = slopes(network, image, [g / g.norm().clamp_min(1e-300) for g in gradients])
    assert (along - norms.sqrt()).abs().le(bound).all(), (along - norms.sqrt()).abs().div(bound).max()
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn(g.shape, dtype=torch.float64, generator=generator) for g in gradients]
    random = [direction / direction.norm() for direction in random]
    shares = torch.stack([(g * d).sum() for g, d in zip(gradients, random, strict=True)])
    assert (slopes(network, image, random) - shares).abs().le(bound).all()
