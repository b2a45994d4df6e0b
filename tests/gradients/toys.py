"""The toy networks of the exactness tests by name, and images for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_gradood.core import exact_arithmetic, frozen_network
from lightning_gradood.gradients.network_checks import structure_of
from lightning_gradood.gradients.plan import plan_for
from lightning_gradood.gradients.proof import Plan

from .block_modules import BLOCKS
from .toy_modules import (
    Checkpointed,
    Frozen,
    Recurrent,
    Residual,
    Scalars,
    Tied,
    Tokens,
    Transformer,
    Twice,
    Unused,
    Weighted,
    Windows,
    head,
)


def trained(network: nn.Module) -> nn.Module:
    """Give norms' statistics and affine parameters values that a wrong formula cannot survive."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return network


TOYS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 5, bias=False)),
    "strided": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, (3, 1), (2, 1)), *head(6)),
    "pointwise": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1, 2, bias=False), *head(6)),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3, padding=2, groups=4, dilation=2), *head(8)
    ),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding="same", groups=8), *head(8)),
    "padded": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"),
        *head(6),
    ),
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1, groups=2), *head(4)
    ),
    "one_dimensional": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(3, 4, 5, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(16, 5)
    ),
    "three_dimensional": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, (2, 3, 3), padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(32, 5),
    ),
    "norms": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8, affine=True),
        nn.PReLU(8), nn.BatchNorm2d(8), nn.LayerNorm([8, 4, 4]), *head(8),
    ),
    "weight_norm": lambda: nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), nn.ReLU(), *head(6)
    ),
    "residual": Residual,
    "twice": Twice,
    "tied": Tied,
    "unused": Unused,
    "transformer": Transformer,
    "sequence_first": lambda: Transformer(batch_first=False),
    "tokens": Tokens,
    "windows": Windows,
    "spectral_norm": lambda: nn.Sequential(
        nn.Flatten(), torch.nn.utils.parametrizations.spectral_norm(nn.Linear(192, 7)), nn.Tanh(), nn.Linear(7, 5)
    ),
    "weighted": Weighted,
    "frozen": Frozen,
    "recurrent": Recurrent,
    "stacked_recurrent": lambda: Recurrent(directions=2, num_layers=2),
    "gated_recurrent": lambda: Recurrent(nn.GRU),
    "checkpointed": Checkpointed,
    "checkpointed_later": lambda: Checkpointed(stem=True),
    "scalars": Scalars,
}  # fmt: skip

SLOW = {
    "sequence_first", "recurrent", "stacked_recurrent", "gated_recurrent", "checkpointed", "checkpointed_later",
    "rows", "rows first",
}  # fmt: skip
"""Exact through the loop; the others are exact through closed forms."""

NETWORKS = TOYS | BLOCKS
FAST = sorted(set(NETWORKS) - SLOW)


def make(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Build one toy or block with weights that depend on nothing else."""
    torch.manual_seed(sum(map(ord, name)))
    return trained(NETWORKS[name]()).to(dtype).eval()


def plan_of(network: nn.Module, images: Tensor) -> Plan:
    """The network's plan for such images."""
    with exact_arithmetic(), frozen_network(network):
        return plan_for(network, images, structure_of(network))


def pictures(number: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(number, 3, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(seed))
