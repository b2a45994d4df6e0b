"""Sums of products with a parameter of any shape: `einsum`, and matrix products beyond a matrix on the right.

Written as an einsum y = x, θ -> y with a letter for each dimension, the input gradient is y, θ -> x and the parameter's is
x, y -> θ; with the batch's letter added to its result, it is every image's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_gradood.gradients.layer import Call, Layer, Match, Rewrite
from lightning_gradood.gradients.tally import Tally


class Contraction(Layer):
    """y = einsum(x, θ); x and y begin with the batch's letter, which θ does not have."""

    def __init__(self, parameter: Tensor, x: str, letters: str, y: str) -> None:
        self.parameter, self.x, self.letters, self.y = parameter, x, letters, y
        self.parameters = (parameter,)

    @override
    def output(self, x: Tensor) -> Tensor:
        return torch.einsum(f"{self.x},{self.letters}->{self.y}", x, self.parameter)

    @override
    def backward(self, x: Tensor, gradient: Tensor, needs_input: bool, tally: Tally) -> Tensor | None:
        tally.record(self.parameter, lambda: self._gradients(x, gradient, tally.batch))
        return torch.einsum(f"{self.y},{self.letters}->{self.x}", gradient, self.parameter) if needs_input else None

    def _gradients(self, x: Tensor, gradient: Tensor, batch: int) -> Tensor:
        """[N, *shape]; of several rows for each image, Z counts them."""
        a, b = (tensor.reshape(batch, -1, *tensor.shape[1:]) for tensor in (x, gradient))
        image, rest = self.x[0], (self.x[1:], self.y[1:])
        return torch.einsum(f"{image}Z{rest[0]},{image}Z{rest[1]}->{image}{self.letters}", a, b)


def _contraction(call: Call, x: Any, parameter: Any, letters: tuple[str, str, str]) -> tuple[Layer, Tensor] | None:
    """Check that the three gradients are what the class says: no letter twice or in one place alone, no stretching."""
    of_x, of_parameter, of_y = letters
    if not call.has_rows(x) or not call.tally.knows(parameter):
        return None
    if any(len(set(term)) != len(term) or not term.isalpha() or "Z" in term for term in letters):
        return None
    if (x.ndim, parameter.ndim) != (len(of_x), len(of_parameter)) or of_x[0] != of_y[:1] or of_x[0] in of_parameter:
        return None
    alone = (set(of_x) - set(of_parameter + of_y)) | (set(of_parameter) - set(of_x + of_y))
    sizes = dict(zip(of_parameter, parameter.shape, strict=True))
    if alone or any(sizes.get(letter, size) != size for letter, size in zip(of_x, x.shape, strict=True)):
        return None
    return Contraction(parameter, *letters), x


def _match_einsum(call: Call) -> tuple[Layer, Tensor] | None:
    if len(call.args) != 3 or call.kwargs or not isinstance(call.args[0], str):
        return None
    equation, first, second = call.args
    terms, arrow, of_y = equation.replace(" ", "").partition("->")
    if not arrow or terms.count(",") != 1:
        return None
    of_first, of_second = terms.split(",")
    if call.tally.knows(first):
        return _contraction(call, second, first, (of_second, of_first, of_y))
    return _contraction(call, first, second, (of_first, of_second, of_y))


def _match_product(call: Call) -> tuple[Layer, Tensor] | None:
    """x @ θ and θ @ x, where θ has a matrix for each head, or stands on the left."""
    if len(call.args) != 2 or call.kwargs:
        return None
    left, right = call.args
    x, parameter = (right, left) if call.tally.knows(left) else (left, right)
    if not call.has_rows(x) or not call.tally.knows(parameter) or parameter.ndim < 2 or parameter.ndim > x.ndim:
        return None
    stacked = "abcdefgh"[: x.ndim - 2]
    own = stacked[len(stacked) - (parameter.ndim - 2) :]
    if parameter is left:
        return _contraction(call, x, parameter, (f"{stacked}jk", f"{own}ij", f"{stacked}ik"))
    return _contraction(call, x, parameter, (f"{stacked}ij", f"{own}jk", f"{stacked}ik"))


def _rewrite_product(call: Call) -> Callable[[], Tensor] | None:
    """A leading dimension of size 1 is left out."""
    if len(call.args) != 2 or call.kwargs:
        return None
    left, right = call.args
    x, parameter = (right, left) if call.tally.knows(left) else (left, right)
    if not call.is_activation(x) or not call.tally.knows(parameter) or parameter.ndim < 3 or parameter.shape[0] != 1:
        return None
    return lambda: parameter[0] @ x if parameter is left else x @ parameter[0]


def _rewrite_sum_and_product(first: str, second: str) -> Rewrite:
    """`addmm` and `baddbmm`: input + first @ second."""

    def rewrite(call: Call) -> Callable[[], Tensor] | None:
        bound = call.bind(("input", first, second, "beta", "alpha"), (None, None, None, 1, 1))
        if bound is None or bound[3:] != [1, 1]:
            return None
        bias, left, right = bound[:3]
        return lambda: left @ right + bias

    return rewrite


_PRODUCTS = (torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__)

MATCHES: dict[Callable[..., Any], Match] = {torch.einsum: _match_einsum, **dict.fromkeys(_PRODUCTS, _match_product)}
REWRITES: dict[Callable[..., Any], Rewrite] = {
    **dict.fromkeys(_PRODUCTS, _rewrite_product),
    **dict.fromkeys((torch.addmm, Tensor.addmm), _rewrite_sum_and_product("mat1", "mat2")),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), _rewrite_sum_and_product("batch1", "batch2")),
}
