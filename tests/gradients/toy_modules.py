"""Small networks that use their parameters in every way that is told apart, each [N, 3, 8, 8] -> [N, 5]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5)]


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


class Weighted(nn.Module):
    """Attention that returns its weights, RMS norm, a layer scale, a temperature behind exp()."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Conv2d(3, 6, 4, 4), nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm, self.head = nn.RMSNorm(6), nn.Linear(6, 5)
        self.scale, self.temperature = nn.Parameter(torch.rand(6)), nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x).flatten(2).transpose(1, 2))
        mixed, weights = self.attention(x, x, x)
        return self.temperature.exp() * self.head((x + self.scale * mixed + weights.sum(1)[..., None]).mean(1))


class Frozen(nn.Module):
    """A body under no_grad: its parameters have norm 0, as autograd has it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale, self.head = nn.Linear(192, 6), nn.Parameter(torch.rand(6, 1)), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.linear(x.flatten(1), self.body.weight * self.scale, self.body.bias)
        return self.head(x)


class Recurrent(nn.Module):
    """The rows of a picture as a sequence; `arguments` go to the LSTM or GRU."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, directions: int = 1, **arguments: int) -> None:
        super().__init__()
        self.cells = kind(24, 7, batch_first=True, bidirectional=directions == 2, **arguments)
        self.head = nn.Linear(7 * directions, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x.transpose(1, 2).flatten(2))[0][:, -1])


class Checkpointed(nn.Module):
    """A block whose activations are computed again in backward; `stem` decides whether parameters come before it."""

    def __init__(self, stem: bool = False, reentrant: bool = False) -> None:
        super().__init__()
        self.stem, self.reentrant = nn.Conv2d(3, 3, 1) if stem else nn.Identity(), reentrant
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Sequential(*head(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.utils.checkpoint.checkpoint(self.body, self.stem(x), use_reentrant=self.reentrant))


class Scalars(nn.Module):
    """A temperature and an offset without dimensions, a gain with one entry, powers and quotients of them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.temperature = nn.Linear(192, 5), nn.Parameter(torch.tensor(1.3))
        self.offset, self.gain = nn.Parameter(torch.tensor(-0.2)), nn.Parameter(torch.tensor([0.7]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x.flatten(1)) / self.temperature + self.offset) * self.gain.sigmoid() ** self.temperature


class TwoDtypes(nn.Module):
    """A float32 body and a float64 head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(192, 7).float(), nn.Linear(7, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x.flatten(1))).double())
