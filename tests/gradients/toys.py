"""Small networks that use their parameters in every way that is told apart, each [N, 3, 8, 8] -> [N, 5], and images."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from lightning_gradood.core import probing_state
from lightning_gradood.gradients.norms import way_for

from .block_modules import BLOCKS, Made, Net, conv, entering, lin

TOYS = {}
toy = entering(TOYS, Net)


def head(channels):
    return [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5)]


def value(given):
    return lambda: nn.Parameter(torch.tensor(given))


CONVOLUTIONS = {"conv1": conv(3, 8, 3, padding=1, bias=False), "conv2": conv(8, 8, 3, padding=1, bias=False)}
NORMS = {"bn1": partial(nn.BatchNorm2d, 8), "bn2": partial(nn.BatchNorm2d, 8)}


@toy("residual", **CONVOLUTIONS, **NORMS, head=lambda: nn.Sequential(*head(8)))
def residual(self, x):
    x = F.relu(self.bn1(self.conv1(x)), inplace=True)
    return self.head(F.relu(self.bn2(self.conv2(x)) + x, inplace=True))


@toy("unused", spare=lin(4, 4), linear=lambda: nn.Linear(192, 5).requires_grad_(False), scale=value(1.5))
def unused(self, x):
    return self.scale * self.linear(x.flatten(1))


@toy("twice", stem=conv(3, 6, 1), conv=conv(6, 6, 3, padding=1), head=lambda: nn.Sequential(*head(6)))
def twice(self, x):
    """One convolution used twice: its two gradients add up before the norm."""
    return self.head(self.conv(F.relu(self.conv(self.stem(x)))))


class Tied(Made):
    """One tensor behind two modules, and used transposed."""

    def made(self):
        self.encode, self.decode, self.head = nn.Linear(192, 10), nn.Linear(10, 10), nn.Linear(192, 5)
        self.again = nn.Linear(10, 10, bias=False)
        self.again.weight = self.decode.weight = nn.Parameter(torch.randn(10, 10) / 3)

    def forward(self, x):
        x = torch.tanh(self.encode(x.flatten(1)))
        x = torch.tanh(self.again(torch.tanh(self.decode(x))))
        return self.head(x @ self.encode.weight)


LAYER = partial(nn.TransformerEncoderLayer, 12, 3, 16, norm_first=True)
AROUND = {"embed": conv(3, 12, 4, 4), "norm": partial(nn.LayerNorm, 12), "head": lin(12, 5)}
AROUND |= {"token": (1, 1, 12), "position": (1, 5, 12)}


@toy("transformer", block=partial(LAYER, batch_first=True), **AROUND)
@toy("sequence_first", block=LAYER, **AROUND)
def transformer(self, x):
    """Class and position tokens, pre-norm attention."""
    x = self.embed(x).flatten(2).transpose(1, 2)
    x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
    first = self.block.self_attn.batch_first
    x = self.block(x) if first else self.block(x.transpose(0, 1)).transpose(0, 1)
    return self.head(self.norm(x)[:, 0])


@toy("tokens", table=partial(nn.Embedding, 6, 4, padding_idx=2), mix=lin(4, 4), head=lin(4, 5), scale=(4,))
def tokens(self, x):
    """Pixels as words of a small vocabulary."""
    words = self.table((x[:, 0] * 6).long().flatten(1))
    return self.head((words - self.scale * self.mix(words)).mean(1))


INDEX = torch.arange(16).view(4, 4) % 9


@toy("windows", embed=conv(3, 6, 2, 2), qkv=lin(6, 18), bias=(9, 2), head=lin(6, 5), index=INDEX.clone)
def windows(self, x):
    """Attention in windows with a relative position bias, as Swin has it: [N·windows, tokens, channels]."""
    x = self.embed(x).unflatten(2, (2, 2)).unflatten(4, (2, 2)).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 6)
    q, k, v = self.qkv(x).view(-1, 4, 3, 2, 3).permute(2, 0, 3, 1, 4)
    weights = q @ k.transpose(-2, -1) + self.bias[self.index].permute(2, 0, 1).unsqueeze(0)
    x = (weights.softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, 6)
    return self.head(x.mean(1))


ATTENTION = {"attention": partial(nn.MultiheadAttention, 6, 2, batch_first=True), "norm": partial(nn.RMSNorm, 6)}


@toy("weighted", embed=conv(3, 6, 4, 4), **ATTENTION, head=lin(6, 5), scale=(6,), temperature=value(0.3))
def weighted(self, x):
    """Attention that returns its weights, RMS norm, a layer scale, a temperature behind exp()."""
    x = self.norm(self.embed(x).flatten(2).transpose(1, 2))
    mixed, weights = self.attention(x, x, x)
    return self.temperature.exp() * self.head((x + self.scale * mixed + weights.sum(1)[..., None]).mean(1))


@toy("frozen", body=lin(192, 6), scale=(6, 1), head=lin(6, 5))
def frozen(self, x):
    """A body under no_grad: its parameters have norm 0, as autograd has it."""
    with torch.no_grad():
        x = F.linear(x.flatten(1), self.body.weight * self.scale, self.body.bias)
    return self.head(x)


@toy("recurrent", cells=partial(nn.LSTM, 24, 7, batch_first=True), head=lin(7, 5))
def recurrent(self, x):
    """The rows of a picture as a sequence."""
    return self.head(self.cells(x.transpose(1, 2).flatten(2))[0][:, -1])


class Checkpointed(Made):
    """A block whose activations are computed again in backward; `stem` decides whether parameters come before it."""

    def made(self, stem=False, reentrant=False):
        self.stem, self.reentrant = nn.Conv2d(3, 3, 1) if stem else nn.Identity(), reentrant
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Sequential(*head(6))

    def forward(self, x):
        return self.head(torch.utils.checkpoint.checkpoint(self.body, self.stem(x), use_reentrant=self.reentrant))


@toy("scalars", linear=lin(192, 5), temperature=value(1.3), offset=value(-0.2), gain=value([0.7]))
def scalars(self, x):
    """A temperature and an offset without dimensions, a gain with one entry, powers and quotients of them."""
    return (self.linear(x.flatten(1)) / self.temperature + self.offset) * self.gain.sigmoid() ** self.temperature


def trained(network):
    """Give norms' statistics and affine parameters values that a wrong formula cannot survive."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return network


SEQUENTIAL = {
    "linear": lambda: [nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 5, bias=False)],
    "strided": lambda: [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, (3, 1), (2, 1)), *head(6)],
    "pointwise": lambda: [nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1, 2, bias=False), *head(6)],
    "grouped": lambda: [nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3, padding=2, groups=4, dilation=2), *head(8)],
    "depthwise": lambda: [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding="same", groups=8), *head(8)],
    "padded": lambda: [
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"), *head(6),
    ],
    "transposed": lambda: [
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1, groups=2), *head(4)
    ],
    "one_dimensional": lambda: [
        nn.Flatten(2), nn.Conv1d(3, 4, 5, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(16, 5)
    ],
    "three_dimensional": lambda: [
        nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, (2, 3, 3), padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(32, 5),
    ],
    "norms": lambda: [
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8, affine=True),
        nn.PReLU(8), nn.BatchNorm2d(8), nn.LayerNorm([8, 4, 4]), *head(8),
    ],
    "weight_norm": lambda: [weight_norm(nn.Conv2d(3, 6, 3)), nn.ReLU(), *head(6)],
    "spectral_norm": lambda: [nn.Flatten(), spectral_norm(nn.Linear(192, 7)), nn.Tanh(), nn.Linear(7, 5)],
}  # fmt: skip
TOYS |= {name: lambda layers=layers: nn.Sequential(*layers()) for name, layers in SEQUENTIAL.items()}
TOYS |= {"tied": Tied, "checkpointed": Checkpointed, "checkpointed_later": partial(Checkpointed, stem=True)}
SLOW = {  # exact through the loop; the others are exact through closed forms
    "sequence_first", "recurrent", "checkpointed", "checkpointed_later",
}  # fmt: skip
NETWORKS = TOYS | BLOCKS
FAST = sorted(set(NETWORKS) - SLOW)


def make(name, dtype=torch.float64):
    """Build one toy or block with weights that depend on nothing else."""
    torch.manual_seed(sum(map(ord, name)))
    return trained(NETWORKS[name]()).to(dtype).eval()


def way_of(network, images):
    """The network's way for such images."""
    with probing_state(network):
        return way_for(network, images, list(network.parameters()))


def pictures(number=4, dtype=torch.float64, seed=0, side=8):
    return torch.rand(number, 3, side, side, dtype=dtype, generator=torch.Generator().manual_seed(seed))
