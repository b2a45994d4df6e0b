"""Networks on which closed forms once gave wrong numbers without a word, each [N, 3, 12, 12] -> [N, 5]."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from . import toys
from .block_modules import Made

pictures = partial(toys.pictures, side=12)


class Seeded(Made):
    """Always the same weights."""

    def __init__(self, *given):
        torch.manual_seed(0)
        super().__init__(*given)


class Between(Seeded):
    """Two linear layers with `between` in the middle, and whatever else hangs on it."""

    def made(self, between=torch.tanh, flag=False):
        self.first, self.last, self.between, self.flag = nn.Linear(432, 8), nn.Linear(8, 5), between, flag

    def forward(self, x):
        x = self.between(torch.tanh(self.first(x.flatten(1))))
        return self.last(x - 0.5 * x.mean(0) if self.flag else x)


class Embedding(Seeded):
    """Patches, a linear layer for their channels, a head; and a number."""

    def made(self, number=1.0):
        self.embed, self.block, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.Linear(8, 5)
        self.number = number


class SequenceFirst(Embedding):
    """A residual block on [tokens, N, channels] behind a layer scale: 36 tokens, divisible by many batch sizes."""

    def made(self, scale):
        super().made()
        self.scale = nn.Parameter(torch.full((8,), scale))

    def forward(self, x):
        x = self.embed(x).flatten(2).permute(2, 0, 1)
        return self.head((x + self.scale * torch.tanh(self.block(x))).mean(0))


class Views(Embedding):
    """Two views of each image stacked as [2N], all first ones before all second ones, behind a small constant."""

    def forward(self, x):
        x = self.embed(x)
        one, other = torch.tanh(self.block(torch.cat([x, x.flip(-1)]).mean((2, 3)))).chunk(2)
        return self.head(x.mean((2, 3)) + self.number * one * other)


class Gated(Embedding):
    """A block that takes rows of tokens for images, behind a gate which only bright images open."""

    def forward(self, x):
        gate = self.number * F.relu(x.mean((1, 2, 3)) - 0.6)
        tokens = self.embed(x).flatten(2)  # [N, 8, 36], in rows [N·36, 8] that start with image 0's and end elsewhere
        mixed = tokens.permute(2, 0, 1).reshape(len(x), -1, 8)
        mixed = torch.tanh(self.block(mixed)).reshape(-1, len(x), 8).mean(0)
        return self.head(tokens.mean(2) + gate[:, None] * mixed)


class RoutedTokens(Embedding):
    """Tokens that are dark go through an expert; all of them, unless an image has bright corners."""

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        dark = F.avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1) < 0.99
        routed = tokens.clone()
        routed[dark] = torch.tanh(self.block(tokens[dark]))
        return self.head(routed.mean(1))


class SortedBatch(Between):
    """Sorts the images by a score that only bright ones have: an order that the probes leave as it is."""

    def made(self):
        super().made()
        self.block = nn.Linear(8, 8)

    def forward(self, x):
        order = F.relu(x.mean((1, 2, 3)) - 0.8).argsort(stable=True)
        x = torch.tanh(self.first(x.flatten(1)))
        return self.last(torch.tanh(self.block(x[order]))[order.argsort()])


class Moved(Between):
    """An order that is the batch's own while no image is bright: each image alone is what counts."""

    def forward(self, x):
        order = F.relu(x.mean((1, 2, 3)) - 0.8)[:, None].argsort(dim=0, stable=True)
        return self.last(self.between(torch.tanh(self.first(x.flatten(1))), order))


ALONG_THE_BATCH = {
    "gathered": lambda x, order: torch.gather(x, 0, order.expand_as(x)),
    "taken": lambda x, order: x.take_along_dim(order, 0),
    "scattered": lambda x, order: torch.zeros_like(x).scatter(0, order.expand_as(x), x),
}


class Cached(Between):
    """Keeps a tensor that a parameter determines from call to call: in a dictionary, as an attribute, in a list."""

    def made(self, kind):
        super().made()
        self.kind, self.bias, self.index = kind, nn.Parameter(torch.rand(4)), [0, 1, 2, 3, 0, 1, 2, 3]
        self.clear()

    def clear(self):
        self.cache = {"dictionary": {}, "attribute": None, "list": []}[self.kind]

    def biases(self):
        if isinstance(self.cache, dict):
            if "cpu" not in self.cache:
                self.cache["cpu"] = self.bias[self.index]
            return self.cache["cpu"]
        if isinstance(self.cache, list):
            if not self.cache:
                self.cache.append(self.bias[self.index])
            return self.cache[0]
        if self.cache is None:
            self.cache = self.bias[self.index]
        return self.cache

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(1)) + self.biases()))


class Counting(Between):
    """Updates two buffers and a number in every forward pass."""

    def made(self):
        super().made()
        self.number = 0
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("average", torch.ones(8))

    def forward(self, x):
        x = torch.tanh(self.first(x.flatten(1)))
        self.calls += 1
        self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        self.number += 1
        return self.last(x)


class InPlace(Seeded):
    """Normalises its input in place, and changes an activation after its sum with a parameter."""

    def made(self):
        self.stem, self.shift, self.head = nn.Conv2d(3, 8, 3), nn.Parameter(torch.rand(8, 1, 1)), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x.sub_(0.5).div_(0.25))
        shifted = x + self.shift
        x.mul_(2)
        return self.head(shifted.add_(x).mean((2, 3)))


class Clamped(torch.autograd.Function):
    """Rounds; its gradient is the identity's, clamped."""

    @staticmethod
    def forward(ctx, x):
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(-0.02, 0.02)


class UnitLength(torch.autograd.Function):
    """The identity; its gradient is brought to length 1."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / gradient.norm()


def hooked(hook):
    """The identity with a hook on its gradient."""

    def identity(x):
        x = x * 1
        if x.requires_grad:
            x.register_hook(hook)
        return x

    return identity


NOT_LINEAR = {
    "hook that clamps": hooked(lambda gradient: gradient.clamp(-0.01, 0.01)),
    "hook that drops": hooked(lambda gradient: gradient * (gradient.abs() > 1e-3)),
    "clamped straight-through": Clamped.apply,
    "normalised gradient": UnitLength.apply,
}


class Routed(Seeded):
    """Sorts the images before a layer and puts them back after it: row n of the layer is not image n."""

    def made(self):
        self.linear = nn.Linear(432, 5)

    def forward(self, x):
        order = x.flatten(1).sum(1).argsort(descending=True)
        return self.linear(x.flatten(1)[order])[order.argsort()]


class Experts(Seeded):
    """Sends each image to one of two layers: which operations run depends on the data."""

    def made(self):
        self.experts = nn.ModuleList([nn.Linear(432, 5), nn.Linear(432, 5)])

    def forward(self, x):
        x = x.flatten(1)
        first = x.mean(1) > 0.5
        result = x.new_zeros(len(x), 5)
        for chosen, expert in ((first, self.experts[0]), (~first, self.experts[1])):
            if chosen.any():
                result = result.index_put((chosen.nonzero().flatten(),), expert(x[chosen]))
        return result


class Prompts(Seeded):
    """Constant vectors through the same layer as the images: as many images as vectors look like a batch."""

    def made(self, number):
        self.linear, self.extra = nn.Linear(432, 7), nn.Parameter(torch.rand(1, 7))
        self.register_buffer("prompts", torch.rand(number, 432))

    def forward(self, x):
        keys = self.linear(self.prompts) + self.extra.expand(len(self.prompts), -1)
        return self.linear(x.flatten(1)) @ keys.T


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient * weight, (gradient * x).sum(0)


class Custom(Seeded):
    """A parameter in a custom autograd function, which no torch function mode sees; `gate` may close it."""

    def made(self, gate, twice):
        self.twice, self.gate = twice, gate
        self.weight, self.linear = nn.Parameter(torch.rand(432)), nn.Linear(432, 5)

    def forward(self, x):
        x = x.flatten(1)
        x = x * self.weight if self.twice else x
        return self.linear(x + F.relu(x.sum(1, keepdim=True) - self.gate) * Scale.apply(x, self.weight))
