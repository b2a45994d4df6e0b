"""Networks on which closed forms once gave wrong numbers without a word, each [N, 3, 12, 12] -> [N, 5]."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from . import toys
from .block_modules import Made, Net, conv, entering, lin

pictures = partial(toys.pictures, side=12)
PATCHES = {"embed": conv(3, 8, 2, 2), "block": lin(8, 8), "head": lin(8, 5)}
ENDS = {"first": lin(432, 8), "last": lin(8, 5)}


def seeded(function, **parts):
    """A network of a function and parts, always with the same weights."""
    torch.manual_seed(0)
    return Net(function, **parts)


NAMED = {}
named = entering(NAMED, seeded)


class Between(Made):
    """Two linear layers with `between` in the middle, and whatever else hangs on it; always with the same weights."""

    def made(self, between=torch.tanh, flag=False):
        torch.manual_seed(0)
        self.first, self.last, self.between, self.flag = nn.Linear(432, 8), nn.Linear(8, 5), between, flag

    def forward(self, x):
        x = self.between(torch.tanh(self.first(x.flatten(1))))
        return self.last(x - 0.5 * x.mean(0) if self.flag else x)


def sequence_first(scale):
    """A residual block on [tokens, N, channels] behind a layer scale: 36 tokens, divisible by many batch sizes."""

    def forward(self, x):
        x = self.embed(x).flatten(2).permute(2, 0, 1)
        return self.head((x + self.scale * torch.tanh(self.block(x))).mean(0))

    return seeded(forward, **PATCHES, scale=lambda: nn.Parameter(torch.full((8,), scale)))


def views(number):
    """Two views of each image stacked as [2N], all first ones before all second ones, behind a small constant."""

    def forward(self, x):
        x = self.embed(x)
        one, other = torch.tanh(self.block(torch.cat([x, x.flip(-1)]).mean((2, 3)))).chunk(2)
        return self.head(x.mean((2, 3)) + number * one * other)

    return seeded(forward, **PATCHES)


def gated(number):
    """A block that takes rows of tokens for images, behind a gate which only bright images open."""

    def forward(self, x):
        gate = number * F.relu(x.mean((1, 2, 3)) - 0.6)
        tokens = self.embed(x).flatten(2)  # [N, 8, 36], in rows [N·36, 8] that start with image 0's and end elsewhere
        mixed = tokens.permute(2, 0, 1).reshape(len(x), -1, 8)
        mixed = torch.tanh(self.block(mixed)).reshape(-1, len(x), 8).mean(0)
        return self.head(tokens.mean(2) + gate[:, None] * mixed)

    return seeded(forward, **PATCHES)


@named("routed tokens", **PATCHES)
def routed_tokens(self, x):
    """Tokens that are dark go through an expert; all of them, unless an image has bright corners."""
    tokens = self.embed(x).flatten(2).transpose(1, 2)
    dark = F.avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1) < 0.99
    routed = tokens.clone()
    routed[dark] = torch.tanh(self.block(tokens[dark]))
    return self.head(routed.mean(1))


@named("sorted batch", **ENDS, block=lin(8, 8))
def sorted_batch(self, x):
    """Sorts the images by a score that only bright ones have: an order that the probes leave as it is."""
    order = F.relu(x.mean((1, 2, 3)) - 0.8).argsort(stable=True)
    x = torch.tanh(self.first(x.flatten(1)))
    return self.last(torch.tanh(self.block(x[order]))[order.argsort()])


def moved(move):
    """An order that is the batch's own while no image is bright: each image alone is what counts."""

    def forward(self, x):
        order = F.relu(x.mean((1, 2, 3)) - 0.8)[:, None].argsort(dim=0, stable=True)
        return self.last(move(torch.tanh(self.first(x.flatten(1))), order))

    return seeded(forward, **ENDS)


ALONG_THE_BATCH = {
    "sorted": NAMED["sorted batch"],
    "gathered": lambda: moved(lambda x, order: torch.gather(x, 0, order.expand_as(x))),
    "taken": lambda: moved(lambda x, order: x.take_along_dim(order, 0)),
    "scattered": lambda: moved(lambda x, order: torch.zeros_like(x).scatter(0, order.expand_as(x), x)),
}


class Cached(Between):
    """Keeps a tensor that a parameter determines from call to call: in a dictionary, as an attribute, in a list."""

    def made(self, kind):
        super().made()
        self.kind, self.bias, self.index = kind, nn.Parameter(torch.rand(4)), [0, 1, 2, 3, 0, 1, 2, 3]
        self.clear()

    def clear(self):
        self.cache = {"dictionary": {}, "attribute": None, "list": []}[self.kind]

    def forward(self, x):
        if self.kind == "attribute":
            self.cache = self.bias[self.index] if self.cache is None else self.cache
            biases = self.cache
        elif self.kind == "list":
            self.cache += [] if self.cache else [self.bias[self.index]]
            biases = self.cache[0]
        else:
            biases = self.cache["cpu"] if "cpu" in self.cache else self.cache.setdefault("cpu", self.bias[self.index])
        return self.last(torch.tanh(self.first(x.flatten(1)) + biases))


@named("counting", **ENDS, calls=lambda: torch.zeros(()), average=lambda: torch.ones(8))
def counting(self, x):
    """Updates two buffers and, from 0 on, a number in every forward pass."""
    x = torch.tanh(self.first(x.flatten(1)))
    self.calls += 1
    self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
    self.number += 1
    return self.last(x)


@named("configured", **ENDS)
def configured(self, x):
    """Couples, and scales, as settings say."""
    x = torch.tanh(self.first(x.flatten(1))) * self.settings.more["scale"]
    return self.last(x - x.mean(0) if self.settings.couples else x)


@named("in place", stem=conv(3, 8, 3), shift=(8, 1, 1), head=lin(8, 5))
def in_place(self, x):
    """Normalises its input in place, and changes an activation after its sum with a parameter."""
    x = self.stem(x.sub_(0.5).div_(0.25))
    shifted = x + self.shift
    x.mul_(2)
    return self.head(shifted.add_(x).mean((2, 3)))


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
    "hook that brings to length 1": hooked(lambda gradient: gradient / gradient.norm()),
}


@named("routed", linear=lin(432, 5))
def routed(self, x):
    """Sorts the images before a layer and puts them back after it: row n of the layer is not image n."""
    order = x.flatten(1).sum(1).argsort(descending=True)
    return self.linear(x.flatten(1)[order])[order.argsort()]


@named("experts", one=lin(432, 5), other=lin(432, 5))
def experts(self, x):
    """Sends each image to one of two layers: which operations run depends on the data."""
    x = x.flatten(1)
    first = x.mean(1) > 0.5
    result = x.new_zeros(len(x), 5)
    for chosen, expert in ((first, self.one), (~first, self.other)):
        if chosen.any():
            result = result.index_put((chosen.nonzero().flatten(),), expert(x[chosen]))
    return result


def prompts(number):
    """Constant vectors through the same layer as the images: as many images as vectors look like a batch."""

    def forward(self, x):
        keys = self.linear(self.prompts) + self.extra.expand(len(self.prompts), -1)
        return self.linear(x.flatten(1)) @ keys.T

    return seeded(forward, linear=lin(432, 7), extra=(1, 7), prompts=lambda: torch.rand(number, 432))


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient * weight, (gradient * x).sum(0)


def custom(gate, twice):
    """A parameter in a custom autograd function, which no torch function mode sees; `gate` may close it."""

    def forward(self, x):
        x = x.flatten(1)
        x = x * self.weight if twice else x
        return self.linear(x + F.relu(x.sum(1, keepdim=True) - gate) * Scale.apply(x, self.weight))

    return seeded(forward, weight=lambda: nn.Parameter(torch.rand(432)), linear=lin(432, 5))
