"""Toy networks for the exactness tests, each [N, 3, 8, 8] -> [N, 5] unless it says otherwise."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5)]


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


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Sequential(*head(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.head(self.relu(self.bn2(self.conv2(x)) + x))


class Twice(nn.Module):
    """One convolution used twice: its two gradients add up before the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Sequential(*head(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.conv(F.relu(self.conv(x))))


class Tied(nn.Module):
    """One tensor behind two modules, and used transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode, self.head = nn.Linear(192, 10), nn.Linear(10, 10), nn.Linear(192, 5)
        self.decode.weight = nn.Parameter(torch.randn(10, 10) / 3)
        self.again = nn.Linear(10, 10, bias=False)
        self.again.weight = self.decode.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.encode(x.flatten(1)))
        x = torch.tanh(self.again(torch.tanh(self.decode(x))))
        return self.head(x @ self.encode.weight)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spare, self.linear, self.scale = nn.Linear(4, 4), nn.Linear(192, 5), nn.Parameter(torch.tensor(1.5))
        self.linear.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.linear(x.flatten(1))


class Transformer(nn.Module):
    """Class and position tokens, pre-norm attention."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 5, 12))
        self.block = nn.TransformerEncoderLayer(12, 3, 16, batch_first=batch_first, norm_first=True)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        x = self.block(x) if self.batch_first else self.block(x.transpose(0, 1)).transpose(0, 1)
        return self.head(self.norm(x)[:, 0])


class Tokens(nn.Module):
    """Pixels as words of a small vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(6, 4, padding_idx=2), nn.Linear(4, 4), nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        words = self.table((x[:, 0] * 6).long().flatten(1))
        return self.head((words - self.scale * self.mix(words)).mean(1))


class Windows(nn.Module):
    """Attention in windows with a relative position bias, as Swin has it: [N·windows, tokens, channels]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 18)
        self.bias, self.head = nn.Parameter(torch.randn(9, 2)), nn.Linear(6, 5)
        self.register_buffer("index", torch.arange(16).view(4, 4) % 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).unflatten(2, (2, 2)).unflatten(4, (2, 2)).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 6)
        q, k, v = self.qkv(x).view(-1, 4, 3, 2, 3).permute(2, 0, 3, 1, 4)
        weights = q @ k.transpose(-2, -1) + self.bias[self.index].permute(2, 0, 1).unsqueeze(0)
        x = (weights.softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, 6)
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(24, 7, batch_first=True), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.transpose(1, 2).flatten(2))[0][:, -1])


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), nn.Sequential(*head(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False))


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
    "recurrent": Recurrent,
    "checkpointed": Checkpointed,
}  # fmt: skip


def make(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Build one toy with weights that depend on nothing else."""
    torch.manual_seed(sum(map(ord, name)))
    return trained(TOYS[name]()).to(dtype).eval()


def pictures(number: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(number, 3, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(seed))
