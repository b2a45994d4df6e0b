"""Forward and backward pass of one micro-batch by closed forms.

During the forward pass every torch function that takes a parameter is intercepted, and a closed form of `rules` takes
its place in the autograd graph. One backward pass for each label design then records the parameters' squared norms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from lightning_gradood.core import BATCH_NORMS, OrderedBatchNorm
from lightning_gradood.gradients.closed_form import Accumulator, Call, Recorded
from lightning_gradood.gradients.labels import LabelDesign, scaled_logit_gradient
from lightning_gradood.gradients.reparametrised import tensors_in
from lightning_gradood.gradients.rules import RULES

Step = tuple[str, str, tuple[int, ...], tuple[object, ...]]
"""A function's name, the closed form that replaced it ("reparametrised" or "unknown" if none, "" for a call without
parameters), its parameters' columns, and what else identifies the call: for a closed form the input's rows per image
and a row's sizes, for indexing the entries of the index, which may mix the rows of a batch."""

_INDEXING = {
    getattr(room, name, None)
    for room in (torch, Tensor)
    for name in (
        "__getitem__", "__setitem__", "index_select", "masked_select", "nonzero", "index_put", "index_put_", "index_add",
        "index_add_", "index_copy", "index_copy_", "masked_scatter", "masked_scatter_", "take", "argwhere", "bincount",
        "unique", "where",
    )
}  # fmt: skip

_ALONG: dict[Callable[..., Any], int] = {
    getattr(room, name): place
    for room in (torch, Tensor)
    for name, place in {
        "gather": 1, "scatter": 1, "scatter_add": 1, "scatter_reduce": 1, "take_along_dim": 2, "sort": 1, "argsort": 1,
        "topk": 2, "kthvalue": 2, "cumsum": 1, "cumprod": 1, "cummax": 1, "cummin": 1, "logcumsumexp": 1,
    }.items()
}  # fmt: skip
"""Functions that may move entries from one row to another, with the position of their `dim` argument."""


class Interception(TorchFunctionMode):
    """A forward pass; while active, it replaces the calls that take a parameter, which has to be frozen meanwhile.

    A torch function mode sees `F.conv2d(x, self.weight)` wherever it is written and allows in-place activations; module
    hooks do neither. By `RULES` a call with a parameter goes through a closed form, or is spelt out in simpler calls, which
    are intercepted in turn. Else it makes a reparametrised tensor, if nothing but parameters and constants goes into it,
    or is `unknown`, and the pass is of no use. Equal `trace`s mean that the network did the same with the same
    parameters, treated alike, and the same rows.
    """

    output: Tensor

    def __init__(self, network: nn.Module, images: Tensor, given: Tensor, accumulator: Accumulator) -> None:
        super().__init__()
        self.network, self.images, self.accumulator = network, images, accumulator
        self.trace: list[Step] = []
        self.unknown: list[str] = []
        self.anchor = images.new_zeros((), requires_grad=True)
        self._batch_norms = OrderedBatchNorm() if accumulator.batch == 1 else None
        self._from_images = WeakIdKeyDictionary()  # tensors without gradient that were computed from the images
        self._from_images[given] = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, accumulator = kwargs or {}, self.accumulator
        given = tensors_in((args, kwargs))
        used = list(filter(accumulator.knows, given))
        # under no_grad, e.g. inside a custom autograd function, no gradient flows
        if not used or not torch.is_grad_enabled():
            return self._without_parameters(func, args, kwargs, given)
        found = RULES[func](Call(args, kwargs, accumulator, self._is_from_images)) if func in RULES else None
        if isinstance(found, tuple):
            layer, x = found
            self._note(func, type(layer).__name__, used, (x.shape[0] / accumulator.batch, *x.shape[1:]))
            for tensor in layer.parameters:
                accumulator.use(tensor)
            return Recorded.apply(self.anchor, layer, accumulator, x)
        if found is not None:
            with self:
                return found()
        constant = all(accumulator.knows(tensor) or not tensor.requires_grad for tensor in given)
        result = accumulator.reparametrised.apply(func, args, kwargs) if constant else func(*args, **kwargs)
        if not tensors_in(result):
            return func(*args, **kwargs)  # a shape or a dtype, asked of the parameter itself
        self._note(func, "reparametrised" if constant else "unknown", used, _index(func, args, given))
        if not constant:
            self.unknown.append(_name(func))
        return result

    def _without_parameters(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor]
    ) -> Any:
        if (name := _name(func)) != "__get__":  # a shape or a dtype
            self.trace.append((name, "", (), _index(func, args, given)))
            if given and (given[0].requires_grad or self._is_from_images(given[0])) and _moves_rows(func, args, kwargs):
                self.unknown.append(f"{name} along the batch")
        order = self._batch_norms if func in BATCH_NORMS else None
        result = func(*args, **kwargs) if order is None else order.ordered(func, args, kwargs)
        # what is computed from the images before any parameter may have several rows for each
        if not (isinstance(result, Tensor) and result.requires_grad):
            for tensor in tensors_in(result):
                if not tensor.requires_grad and any(map(self._is_from_images, given)):
                    self._from_images[tensor] = True
        return result

    def _is_from_images(self, tensor: Tensor) -> bool:
        return tensor in self._from_images

    def _note(self, func: Callable[..., Any], became: str, used: list[Tensor], told: tuple[object, ...]) -> None:
        self.trace.append((_name(func), became, tuple(map(self.accumulator.column, used)), told))


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", "a function without a name")


def _index(func: Callable[..., Any], args: tuple[Any, ...], given: list[Tensor]) -> tuple[object, ...]:
    """The entries of an index: digests of integer and mask tensors, or the index itself if it has no tensor."""
    chooses_element_by_element = _name(func) == "where" and len(args) == 3
    if func not in _INDEXING or chooses_element_by_element:
        return ()
    return (*map(_entries, given), *(args[1:] if len(given) == 1 else ()))


def _entries(tensor: Tensor) -> object:
    """Shape and digest of an index; nothing for numbers, which are no index."""
    if tensor.is_floating_point() or tensor.is_complex():
        return None
    values = tensor.detach().cpu().contiguous().numpy().tobytes()
    return (tuple(tensor.shape), hashlib.blake2b(values, digest_size=8).hexdigest())


def _moves_rows(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function that works along one dimension is asked to work along the batch."""
    if func not in _ALONG:
        return False
    dimension = kwargs.get("dim", args[_ALONG[func]] if len(args) > _ALONG[func] else -1)
    return bool(isinstance(dimension, int) and dimension in (0, -tensors_in(args)[0].ndim))


def forward(network: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter], passes: int) -> Interception:
    """Run the network, its parameters frozen, with closed forms; `passes` backward passes will follow."""
    given = images.clone()  # the network may write into it
    pass_ = Interception(network, images, given, Accumulator(parameters, images.shape[0], passes))
    with pass_:
        pass_.output = network(given)
    return pass_


def backward(pass_: Interception, label_designs: Sequence[LabelDesign], keep: bool = False) -> Tensor:
    """Return the squared norms, float64 [N, K, L], for K designs; `keep` the graph for another backward pass."""
    norms = []
    for number, design in enumerate(label_designs, start=1):
        logit_gradient, scale = scaled_logit_gradient(design, pass_.output)
        norms.append(norms_for(pass_, logit_gradient, keep or number < len(label_designs)) * scale.square()[:, None])
    return torch.stack(norms, 1)


def norms_for(pass_: Interception, logit_gradient: Tensor, keep: bool) -> Tensor:
    """Return the squared norms, float64 [N, L], for a logit gradient [N, C]; `keep` the graph for another one."""
    pass_.accumulator.start()
    # every closed form depends on the anchor; asking for its gradient alone leaves every `.grad` untouched
    torch.autograd.grad(pass_.output, pass_.anchor, logit_gradient, allow_unused=True, retain_graph=keep)
    return pass_.accumulator.result()
