"""Blocks of networks of today in small, each [N, 3, 8, 8] -> [N, 5]: what timm and Hugging Face do with parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """16 tokens of 6 channels, a block, a head. What the block needs is made by `made`, and used by `mixed`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 5)
        self.made()

    def made(self) -> None: ...

    def mixed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mixed(torch.tanh(self.embed(x).flatten(2).transpose(1, 2))).mean(1))


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / 2 + 0.5)


class RelativeBias(Block):
    """BEiT: a table of relative positions, gathered into the mask of torch's attention; a bias with a frozen part."""

    def made(self) -> None:
        self.qkv, self.table = parameter(18, 6), parameter(49, 2)
        self.q_bias, self.v_bias = parameter(6), parameter(6)
        self.register_buffer("k_bias", torch.zeros(6), persistent=False)
        self.register_buffer("index", torch.randint(0, 49, (16, 16)))

    def mixed(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
        q, k, v = F.linear(x, self.qkv, bias).view(len(x), 16, 3, 2, 3).permute(2, 0, 3, 1, 4)
        mask = self.table[self.index.view(-1)].view(16, 16, 2).permute(2, 0, 1).contiguous().unsqueeze(0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.7).transpose(1, 2).reshape(x.shape)


class MetaBias(Block):
    """Swin v2: the bias comes from a small network on a constant table, whose rows may be N or a multiple of it."""

    ROWS = 256

    def made(self) -> None:
        self.meta = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2, bias=False))
        self.temperature = parameter(2, 1, 1)
        self.register_buffer("table", torch.randn(self.ROWS, 256 // self.ROWS, 2))

    def mixed(self, x: Tensor) -> Tensor:
        q = F.normalize(x.view(len(x), 16, 2, 3).transpose(1, 2), dim=-1)
        weights = q @ q.transpose(-2, -1) * torch.clamp(self.temperature, max=2.0).exp()
        weights = weights + self.meta(self.table).flatten(0, 1).transpose(1, 0).reshape(2, 16, 16).unsqueeze(0)
        return (weights.softmax(-1) @ q).transpose(1, 2).reshape(x.shape)


class MetaBiasOfTwo(MetaBias):
    ROWS = 2


class ResponseNorm(Block):
    """ConvNeXt v2's and ResMLP's `addcmul`."""

    def made(self) -> None:
        self.weight, self.bias, self.alpha, self.beta = (
            parameter(6),
            parameter(6),
            parameter(1, 1, 6),
            parameter(1, 1, 6),
        )

    def mixed(self, x: Tensor) -> Tensor:
        response = x.norm(dim=1, keepdim=True)
        response = response / (response.mean(-1, keepdim=True) + 1e-6)
        x = x + torch.addcmul(self.bias.view(1, 1, -1), self.weight.view(1, 1, -1), x * response)
        return torch.addcmul(self.beta, self.alpha, x, value=0.5)


class HeadProducts(Block):
    """Matrices for each head, a matrix on the left, one with a leading dimension of 1."""

    def made(self) -> None:
        self.per_head, self.left, self.leading = parameter(2, 3, 4), parameter(16, 16), parameter(1, 2, 4, 3)

    def mixed(self, x: Tensor) -> Tensor:
        heads = (self.left @ x).view(len(x), 16, 2, 3).transpose(1, 2)
        heads = torch.tanh(heads @ self.per_head)
        return torch.matmul(heads, self.leading).transpose(1, 2).reshape(x.shape)


class RelativeEinsum(Block):
    """SAM and MViT v2: relative positions for rows and columns, heads counted with the images and apart."""

    def made(self) -> None:
        self.rows, self.columns = parameter(7, 3), parameter(7, 3)
        self.register_buffer("index", torch.arange(4)[:, None] - torch.arange(4)[None, :] + 3)

    def mixed(self, x: Tensor) -> Tensor:
        q = x.view(len(x), 16, 2, 3).transpose(1, 2)
        together, apart = q.reshape(-1, 4, 4, 3), q.reshape(len(x), 2, 4, 4, 3)
        by_row = torch.einsum("bhwc,hkc->bhwk", together, self.rows[self.index])
        by_column = torch.einsum("byhwc, wkc -> byhwk", apart, self.columns[self.index])
        bias = by_row[..., :, None] + by_column.flatten(0, 1)[..., None, :]
        weights = bias.reshape(len(x), 2, 16, 16).softmax(-1)
        return (weights @ q).transpose(1, 2).reshape(x.shape)


class PooledHeads(Block):
    """MViT v2 and LeViT: a convolution that heads share, batch norm over tokens, PReLU on rows."""

    def made(self) -> None:
        self.pool, self.pool1 = nn.Conv2d(3, 3, 3, 1, 1, groups=3), nn.Conv1d(3, 3, 3, padding=1, bias=False)
        self.norm, self.act = nn.BatchNorm1d(6), nn.PReLU(3)

    def mixed(self, x: Tensor) -> Tensor:
        heads = x.view(len(x), 16, 2, 3).transpose(1, 2).reshape(-1, 4, 4, 3).permute(0, 3, 1, 2)
        heads = self.pool1(self.act(self.pool(heads)).flatten(2)).transpose(1, 2)
        x = heads.reshape(len(x), 2, 16, 3).transpose(1, 2).reshape(x.shape)
        return self.norm(x.flatten(0, 1)).view(x.shape)


class InPlace(Block):
    """NFNet: an activation scaled where it stands."""

    def made(self) -> None:
        self.gain, self.bias, self.shift, self.divisor = parameter(), parameter(6), parameter(1, 1, 6), parameter(6)

    def mixed(self, x: Tensor) -> Tensor:
        y = torch.tanh(x) * 2
        y.mul_(self.gain)
        y += self.bias
        y.sub_(self.shift)
        y /= self.divisor
        return x + y


class Overwritten(Block):
    """A sum with a parameter, whose operand is overwritten afterwards: plain autograd copes."""

    def made(self) -> None:
        self.bias = parameter(6)

    def mixed(self, x: Tensor) -> Tensor:
        x = x * 2
        y = x + self.bias
        x.mul_(3)
        return torch.tanh(x + y)


class Quotients(Block):
    def made(self) -> None:
        self.a, self.b, self.c, self.d = parameter(6), parameter(16, 1), parameter(), parameter(1, 6)

    def mixed(self, x: Tensor) -> Tensor:
        return (self.a - x / self.b.exp()) / (2 + self.c**2) + self.d / (x + 3) - torch.sub(self.c, x)


class Repeated(Block):
    """XCiT's positions, made of parameters and repeated over the batch; class tokens in five spellings."""

    def made(self) -> None:
        self.project, self.token, self.flat = nn.Conv2d(2, 6, 1), parameter(1, 1, 6), parameter(6)
        self.register_buffer("grid", torch.randn(1, 2, 4, 4))

    def mixed(self, x: Tensor) -> Tensor:
        N = len(x)
        position = self.project(self.grid).repeat(N, 1, 1, 1)
        x = x + position.reshape(N, 6, 16).permute(0, 2, 1)
        flat = self.flat.view(1, 1, 6)
        tokens = self.token.repeat(N, 1, 1), self.token.tile((N, 1, 1)), flat.expand_as(x[:, :1])
        return torch.cat([*tokens, torch.broadcast_to(flat, (N, 1, 6)), self.flat.expand(N, 2, 6), x], 1)


class Casts(Block):
    """Hugging Face: questions after a dtype and conversions that change nothing."""

    def made(self) -> None:
        self.mix, self.scale = nn.Linear(6, 6), parameter(6)

    def mixed(self, x: Tensor) -> Tensor:
        x = x.to(self.mix.weight.dtype)
        x = F.linear(x, self.mix.weight.to(x.dtype).contiguous(), self.mix.bias.type_as(x))
        return x * self.scale.to(x)


class Views(Block):
    """A parameter's entries in another shape: used once, twice, and beside the parameter itself."""

    def made(self) -> None:
        self.once, self.twice, self.both, self.folded = parameter(6, 6), parameter(6, 6), parameter(6, 6), parameter(36)

    def mixed(self, x: Tensor) -> Tensor:
        x = torch.tanh(F.linear(x, self.once.t().contiguous()))
        x = torch.tanh(F.linear(x, self.twice.t()) + x @ self.twice.T)
        x = torch.tanh(F.linear(x, self.both) + F.linear(x, self.both.transpose(0, 1)))
        return x @ self.folded.view(6, 6)[:, None].squeeze(1)


class Written(Block):
    """Copies of parameters that are written to before they are used."""

    def made(self) -> None:
        self.scaled, self.masked, self.doubled = parameter(6, 6), parameter(6, 6), parameter(6)

    def mixed(self, x: Tensor) -> Tensor:
        scaled, masked = self.scaled.clone(), self.masked.clone()
        scaled.mul_(2)
        masked[0] = 0
        return torch.tanh(F.linear(x, scaled)) @ masked + self.doubled.repeat(2).view(2, 6).sum(0)


class Rows(nn.Module):
    """The rows of a picture as tokens of their own for an LSTM over columns, with all that it returns."""

    def __init__(self, **settings: bool) -> None:
        super().__init__()
        self.cells = nn.LSTM(3, 4, num_layers=2, bidirectional=True, **settings)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1).flatten(0, 1)  # [N·8, 8, 3]
        y, (h, c) = self.cells(rows if self.cells.batch_first else rows.transpose(0, 1))
        y = y if self.cells.batch_first else y.transpose(0, 1)
        found = torch.cat([y.square().mean(1), h[1] + h[2], c[3] * c[0]], 1)
        return self.head(found.view(len(x), 8, 16).mean(1))


class Unfolded(nn.Module):
    """TNT: patches of the images, as rows of their own, through the first layer of all."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.position = nn.Conv2d(3, 4, 3, 2, 1), nn.Parameter(torch.randn(1, 4, 2, 2))
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 4, stride=4).transpose(1, 2).reshape(-1, 3, 4, 4)  # [N·4, 3, 4, 4]
        return self.head(torch.tanh(self.inner(patches) + self.position).reshape(len(x), 64))


class Standardised(nn.Module):
    """BiT and NFNet: weights with mean 0 and variance 1, a gain, and a bias."""

    def __init__(self, groups: int = 1, scaled: bool = False) -> None:
        super().__init__()
        self.stem, self.conv, self.scaled = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, 2, 1, groups=groups), scaled
        self.gain = nn.Parameter(torch.randn(6, 1, 1, 1)) if scaled else None
        self.last, self.head = nn.Conv2d(6, 6, 1, bias=False), nn.Linear(6, 5)
        with torch.no_grad():  # rows whose variance is nothing beside ε
            self.conv.weight[0], self.last.weight[1] = 0, 0.3

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        for conv in (self.conv, self.last):
            affine = (self.gain * 0.3).view(-1) if self.gain is not None and conv is self.conv else None
            flat = conv.weight.reshape(1, conv.out_channels, -1)
            weight = F.batch_norm(flat, None, None, weight=affine, training=True, momentum=0.0, eps=1e-6)
            weight = weight.reshape_as(conv.weight)
            x = torch.tanh(F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups))
        return self.head(x.mean((2, 3)))


class StandardisedInPlace(nn.Module):
    """A standardised convolution of what is nearly constant, so that most of its gradient is removed with the mean; then
    an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, bias=False)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = 1e-3 * self.stem(x) + 1
        weight = F.batch_norm(self.conv.weight.reshape(1, 6, -1), None, None, training=True, eps=1e-6)
        return self.head(F.leaky_relu(F.conv2d(x, weight.view(6, 6, 3, 3)), 0.1, inplace=True).mean((2, 3)))


class SharedStandard(nn.Module):
    """A standardised weight that is used twice, and its parameter once more beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weight = F.batch_norm(self.conv.weight.reshape(1, 6, -1), None, None, training=True, eps=1e-6)
        weight = weight.reshape_as(self.conv.weight)
        x = torch.tanh(F.conv2d(torch.tanh(F.conv2d(x, weight, padding=1)), weight, self.conv.bias))
        return self.head(self.conv(x).mean((2, 3)))


class Added(Block):
    """`addmm` and `baddbmm`, as GPT-2's layers have them."""

    def made(self) -> None:
        self.weight, self.bias, self.scores = parameter(6, 6), parameter(6), parameter(1, 16, 16)

    def mixed(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.reshape(-1, 6), self.weight).view(x.shape)
        return torch.baddbmm(self.scores, torch.tanh(y), x.transpose(1, 2)) @ x


BLOCKS = {
    "relative bias": RelativeBias, "meta bias": MetaBias, "meta bias of two": MetaBiasOfTwo,
    "response norm": ResponseNorm, "head products": HeadProducts,
    "relative einsum": RelativeEinsum, "pooled heads": PooledHeads, "in place": InPlace, "overwritten": Overwritten,
    "quotients": Quotients, "repeated": Repeated, "casts": Casts, "views": Views, "written": Written, "rows": Rows,
    "rows first": lambda: Rows(batch_first=True, bias=False), "unfolded": Unfolded, "standardised": Standardised,
    "standardised groups": lambda: Standardised(2), "standardised gain": lambda: Standardised(scaled=True),
    "shared standard": SharedStandard, "standardised in place": StandardisedInPlace, "added": Added,
}  # fmt: skip
