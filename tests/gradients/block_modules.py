"""Blocks of networks of today in small, each [N, 3, 8, 8] -> [N, 5]: what timm and Hugging Face do with parameters."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


class Made(nn.Module):
    """A network whose parts are made by `made`."""

    def __init__(self, *given, **settings):
        super().__init__()
        self.made(*given, **settings)


class Net(nn.Module):
    """A function of the network and its input, and named parts: shapes of parameters, or what makes a module or buffer."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            made = part() if callable(part) else nn.Parameter(torch.randn(part) / 2 + 0.5)
            if isinstance(made, nn.Module | nn.Parameter):
                setattr(self, name, made)
            else:
                self.register_buffer(name, made, persistent=False)

    def forward(self, x):
        return self.function(self, x)


def conv(*given, **settings):
    return partial(nn.Conv2d, *given, **settings)


def lin(*given, **settings):
    return partial(nn.Linear, *given, **settings)


class Block(Net):
    """16 tokens of 6 channels, the function, a head."""

    def __init__(self, function, **parts):
        super().__init__(function, embed=conv(3, 6, 2, 2), head=lin(6, 5), **parts)

    def forward(self, x):
        return self.head(super().forward(torch.tanh(self.embed(x).flatten(2).transpose(1, 2))).mean(1))


def entering(table, kind):
    """Return a decorator that enters a network of such a function and parts into the table."""

    def named(name, **parts):
        def enter(function):
            table[name] = lambda: kind(function, **parts)
            return function

        return enter

    return named


BLOCKS = {}
block, whole = entering(BLOCKS, Block), entering(BLOCKS, Net)


@block(
    "relative bias",
    **{"qkv": (18, 6), "table": (49, 2), "q_bias": (6,), "v_bias": (6,)},
    **{"k_bias": lambda: torch.zeros(6), "index": lambda: torch.randint(0, 49, (16, 16))},
)
def relative_bias(self, x):
    """BEiT: a table of relative positions, gathered into the mask of torch's attention; a bias with a frozen part."""
    bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
    q, k, v = F.linear(x, self.qkv, bias).view(len(x), 16, 3, 2, 3).permute(2, 0, 3, 1, 4)
    mask = self.table[self.index.view(-1)].view(16, 16, 2).permute(2, 0, 1).contiguous().unsqueeze(0)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.7).transpose(1, 2).reshape(x.shape)


META = {
    "meta": lambda: nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2, bias=False)),
    "temperature": (2, 1, 1),
}


@block("meta bias", **META, table=lambda: torch.randn(256, 1, 2))
@block("meta bias of two", **META, table=lambda: torch.randn(2, 128, 2))
def meta_bias(self, x):
    """Swin v2: the bias comes from a small network on a constant table, whose rows may be N or a multiple of it."""
    q = F.normalize(x.view(len(x), 16, 2, 3).transpose(1, 2), dim=-1)
    weights = q @ q.transpose(-2, -1) * torch.clamp(self.temperature, max=2.0).exp()
    weights = weights + self.meta(self.table).flatten(0, 1).transpose(1, 0).reshape(2, 16, 16).unsqueeze(0)
    return (weights.softmax(-1) @ q).transpose(1, 2).reshape(x.shape)


@block("response norm", weight=(6,), bias=(6,), alpha=(1, 1, 6), beta=(1, 1, 6))
def response_norm(self, x):
    """ConvNeXt v2's and ResMLP's `addcmul`."""
    response = x.norm(dim=1, keepdim=True)
    response = response / (response.mean(-1, keepdim=True) + 1e-6)
    x = x + torch.addcmul(self.bias.view(1, 1, -1), self.weight.view(1, 1, -1), x * response)
    return torch.addcmul(self.beta, self.alpha, x, value=0.5)


@block("head products", per_head=(2, 3, 4), left=(16, 16), leading=(1, 2, 4, 3))
def head_products(self, x):
    """Matrices for each head, a matrix on the left, one with a leading dimension of 1."""
    heads = (self.left @ x).view(len(x), 16, 2, 3).transpose(1, 2)
    heads = torch.tanh(heads @ self.per_head)
    return torch.matmul(heads, self.leading).transpose(1, 2).reshape(x.shape)


@block("relative einsum", rows=(7, 3), columns=(7, 3), index=lambda: torch.arange(4)[:, None] - torch.arange(4) + 3)
def relative_einsum(self, x):
    """SAM and MViT v2: relative positions for rows and columns, heads counted with the images and apart."""
    q = x.view(len(x), 16, 2, 3).transpose(1, 2)
    together, apart = q.reshape(-1, 4, 4, 3), q.reshape(len(x), 2, 4, 4, 3)
    by_row = torch.einsum("bhwc, hkc -> bhwk", together, self.rows[self.index])
    by_column = torch.einsum("byhwc,wkc->byhwk", apart, self.columns[self.index])
    bias = by_row[..., :, None] + by_column.flatten(0, 1)[..., None, :]
    weights = bias.reshape(len(x), 2, 16, 16).softmax(-1)
    return (weights @ q).transpose(1, 2).reshape(x.shape)


@block(
    "pooled heads",
    pool=conv(3, 3, 3, 1, 1, groups=3),
    pool1=lambda: nn.Conv1d(3, 3, 3, padding=1, bias=False),
    **{"norm": partial(nn.BatchNorm1d, 6), "act": partial(nn.PReLU, 3)},
)
def pooled_heads(self, x):
    """MViT v2 and LeViT: a convolution that heads share, batch norm over tokens, PReLU on rows."""
    heads = x.view(len(x), 16, 2, 3).transpose(1, 2).reshape(-1, 4, 4, 3).permute(0, 3, 1, 2)
    heads = self.pool1(self.act(self.pool(heads)).flatten(2)).transpose(1, 2)
    x = heads.reshape(len(x), 2, 16, 3).transpose(1, 2).reshape(x.shape)
    return self.norm(x.flatten(0, 1)).view(x.shape)


@block("in place", gain=(), bias=(6,), shift=(1, 1, 6), divisor=(6,))
def in_place(self, x):
    """NFNet: an activation scaled where it stands."""
    y = torch.tanh(x) * 2
    y.mul_(self.gain)
    y += self.bias
    y.sub_(self.shift)
    y /= self.divisor
    return x + y


@block("quotients", a=(6,), b=(16, 1), c=(), d=(1, 6))
def quotients(self, x):
    return (self.a - x / self.b.exp()) / (2 + self.c**2) + self.d / (x + 3) - torch.sub(self.c, x)


GRID = {"project": conv(2, 6, 1), "grid": lambda: torch.randn(1, 2, 4, 4)}


@block("repeated", **GRID, token=(1, 1, 6), flat=(6,))
def repeated(self, x):
    """XCiT's positions, made of parameters and repeated over the batch; class tokens in five spellings."""
    N = len(x)
    x = x + self.project(self.grid).repeat(N, 1, 1, 1).reshape(N, 6, 16).permute(0, 2, 1)
    flat = self.flat.view(1, 1, 6)
    tokens = self.token.repeat(N, 1, 1), self.token.tile((N, 1, 1)), flat.expand_as(x[:, :1])
    return torch.cat([*tokens, torch.broadcast_to(flat, (N, 1, 6)), self.flat.expand(N, 2, 6), x], 1)


@block("casts", mix=lin(6, 6), scale=(6,))
def casts(self, x):
    """Hugging Face: questions after a dtype and conversions that change nothing."""
    x = x.to(self.mix.weight.dtype)
    x = F.linear(x, self.mix.weight.to(x.dtype).contiguous(), self.mix.bias.type_as(x))
    return x * self.scale.to(x)


@block("views", once=(6, 6), twice=(6, 6), both=(6, 6), folded=(36,))
def views(self, x):
    """A parameter's entries in another shape: used once, twice, and beside the parameter itself."""
    x = torch.tanh(F.linear(x, self.once.t().contiguous()))
    x = torch.tanh(F.linear(x, self.twice.t()) + x @ self.twice.T)
    x = torch.tanh(F.linear(x, self.both) + F.linear(x, self.both.transpose(0, 1)))
    return x @ self.folded.view(6, 6)[:, None].squeeze(1)


@block("written", scaled=(6, 6), masked=(6, 6), doubled=(6,))
def written(self, x):
    """Copies of parameters that are written to before they are used."""
    scaled, masked = self.scaled.clone(), self.masked.clone()
    scaled.mul_(2)
    masked[0] = 0
    return torch.tanh(F.linear(x, scaled)) @ masked + self.doubled.repeat(2).view(2, 6).sum(0)


@block("added", weight=(6, 6), bias=(6,), scores=(1, 16, 16))
def added(self, x):
    """`addmm` and `baddbmm`, as GPT-2's layers have them."""
    y = torch.addmm(self.bias, x.reshape(-1, 6), self.weight).view(x.shape)
    return torch.baddbmm(self.scores, torch.tanh(y), x.transpose(1, 2)) @ x


@whole("unfolded", inner=conv(3, 4, 3, 2, 1), position=(1, 4, 2, 2), head=lin(64, 5))
def unfolded(self, x):
    """TNT: patches of the images, as rows of their own, through the first layer of all."""
    patches = F.unfold(x, 4, stride=4).transpose(1, 2).reshape(-1, 3, 4, 4)  # [N·4, 3, 4, 4]
    return self.head(torch.tanh(self.inner(patches) + self.position).reshape(len(x), 64))


def standardised(conv, gain=None):
    """BiT's and NFNet's weights: mean 0 and variance 1, times a gain."""
    flat = conv.weight.reshape(1, conv.out_channels, -1)
    weight = F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=1e-6)
    return weight.reshape_as(conv.weight)


class Standardised(Made):
    def made(self, groups=1, scaled=False):
        self.stem, self.conv, self.scaled = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, 2, 1, groups=groups), scaled
        self.gain = nn.Parameter(torch.randn(6, 1, 1, 1)) if scaled else None
        self.last, self.head = nn.Conv2d(6, 6, 1, bias=False), nn.Linear(6, 5)
        with torch.no_grad():  # rows whose variance is nothing beside ε
            self.conv.weight[0], self.last.weight[1] = 0, 0.3

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        for conv in (self.conv, self.last):
            gain = (self.gain * 0.3).view(-1) if self.gain is not None and conv is self.conv else None
            weight = standardised(conv, gain)
            x = torch.tanh(F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups))
        return self.head(x.mean((2, 3)))


BLOCKS["standardised"], BLOCKS["standardised groups"] = Standardised, partial(Standardised, 2)
BLOCKS["standardised gain"] = partial(Standardised, scaled=True)


@whole("standardised in place", stem=conv(3, 6, 1), conv=conv(6, 6, 3, bias=False), head=lin(6, 5))
def standardised_in_place(self, x):
    """Of what is nearly constant, so that most of the gradient is removed with the mean; then an activation in place."""
    x = 1e-3 * self.stem(x) + 1
    weight = F.batch_norm(self.conv.weight.reshape(1, 6, -1), None, None, training=True, eps=1e-6)
    return self.head(F.leaky_relu(F.conv2d(x, weight.view(6, 6, 3, 3)), 0.1, inplace=True).mean((2, 3)))


@whole("shared standard", stem=conv(3, 6, 1), conv=conv(6, 6, 3, padding=1), head=lin(6, 5))
def shared_standard(self, x):
    """A standardised weight that is used twice, and its parameter once more beside it."""
    x, weight = self.stem(x), standardised(self.conv)
    x = torch.tanh(F.conv2d(torch.tanh(F.conv2d(x, weight, padding=1)), weight, self.conv.bias))
    return self.head(self.conv(x).mean((2, 3)))
