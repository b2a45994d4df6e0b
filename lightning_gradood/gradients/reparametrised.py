"""Tensors computed from parameters alone (a reparametrised weight, a transposed or indexed one) and the way back.

Closed forms give a reparametrised tensor's per-sample gradients, and one batched backward pass through its own small
graph turns them into the parameters'. Where it only holds a parameter's entries in another order or shape, its gradient
has the parameter's norm, and no way back is needed unless the parameter is used elsewhere, too.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_REARRANGING = {
    getattr(room, name, None)
    for room in (torch, Tensor)
    for name in (
        "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "unsqueeze", "squeeze", "permute", "transpose",
        "swapaxes", "movedim", "t", "contiguous", "clone", "expand", "expand_as", "broadcast_to", "to", "type_as", "float",
        "double",
    )
} | {getattr(Tensor, attribute).__get__ for attribute in ("T", "mT")}  # fmt: skip
"""Functions whose result, if it has as many entries of the same dtype, holds exactly those of its first argument."""

_SHAPED_LIKE = {Tensor.view_as, Tensor.reshape_as, Tensor.expand_as}
"""Functions that read only the shape of their second argument."""


@dataclass(frozen=True)
class Standardised:
    """A weight θ [D, ...] with mean 0 and variance 1 in each of its D rows, times a factor: a·(θ − μ)·s."""

    parameter: Tensor  # θ
    factor: Tensor | None  # a, [D]; None for 1
    inverse: Tensor  # s = 1/√(variance + ε), [D]
    rows: Tensor  # (θ − μ)·s, shaped as θ


class Reparametrised:
    """The graph from parameters, which stay frozen, to reparametrised tensors during one forward pass."""

    def __init__(self, parameters: Container[int]) -> None:
        self._parameters = parameters  # their ids; other keys are ids, too
        self._leaves: dict[int, tuple[Tensor, Tensor]] = {}  # a parameter and its alias that records
        self.tensors: dict[int, Tensor] = {}
        self._rearranged: dict[int, Tensor] = {}  # the parameter whose entries a tensor holds
        self._standardised: dict[int, Standardised] = {}
        self.mixed: set[int] = set()  # parameters behind a tensor that does more than rearrange

    def source(self, tensor: Tensor) -> Tensor:
        """The parameter whose entries this reparametrised tensor rearranges; the tensor itself if it is another one."""
        return self._rearranged.get(id(tensor), tensor)

    def standardised(self, tensor: Tensor) -> Standardised | None:
        """How this reparametrised tensor was standardised; None if it was not, or is not in its parameter's shape."""
        found = self._standardised.get(id(tensor))
        return None if found is None or tensor.shape != found.parameter.shape else found

    def spend(self, tensor: Tensor) -> None:
        """Note that a closed form uses `tensor` without regard to its standardisation."""
        if id(tensor) in self._standardised:
            self.mixed.add(id(self._standardised[id(tensor)].parameter))

    def apply(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Call `func` with recording aliases in place of parameters and adopt the tensors that it returns.

        Where `func` returns an alias itself, e.g. in a conversion to its own dtype, return the parameter.
        """
        leaves: dict[int, tuple[Tensor, Tensor]] = {}

        def alias(tensor: Tensor) -> Tensor:
            if id(tensor) not in self._parameters:
                return tensor
            leaves[id(tensor)] = self._leaves.get(id(tensor)) or (tensor, tensor.detach().requires_grad_())
            return leaves[id(tensor)][1]

        versions = [
            (tensor, tensor._version) for tensor in tensors_in((args, kwargs)) if id(tensor) in self._rearranged
        ]
        result = func(*_mapped(args, alias), **_mapped(kwargs, alias))
        for tensor, version in versions:
            if tensor._version != version:  # written to in place
                self.mixed.add(id(self._rearranged.pop(id(tensor), tensor)))
        for parameter, leaf in leaves.values():
            if result is leaf:
                return parameter
        made = [tensor for tensor in tensors_in(result) if tensor.requires_grad]  # others let no gradient through
        if made:
            self.tensors.update((id(tensor), tensor) for tensor in made)
            self._leaves.update(leaves)
            self._describe(func, args, kwargs, made)
        return result

    def _describe(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], made: list[Tensor]) -> None:
        """Note whether what `func` made rearranges or standardises a parameter; else its parameters are mixed."""
        asked = args[:1] if func in _SHAPED_LIKE else (args, kwargs)
        given = [tensor for tensor in tensors_in(asked) if id(tensor) in self._leaves or id(tensor) in self.tensors]
        whole = made[0]
        if len(made) == 1 and len(given) == 1 and _rearranges(func, args, given[0], whole):
            source = self.source(given[0])
            if id(source) in self._leaves:
                self._rearranged[id(whole)] = source
                return
            standardised = self._standardised.get(id(given[0]))
            if standardised is not None and _is_same_memory(whole, given[0]):
                self._standardised[id(whole)] = standardised
                return
        if len(made) == 1 and func is F.batch_norm and (found := self._standardisation(args, kwargs, whole)):
            self._standardised[id(whole)] = found
            given = given[1:]
        for tensor in given:
            self.spend(tensor)
            self.mixed.add(id(self.source(tensor)))

    def _standardisation(self, args: Any, kwargs: dict[str, Any], made: Tensor) -> Standardised | None:
        """`F.batch_norm` of a weight seen as [1, D, M], with its own statistics."""
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given: dict[str, Any] = dict.fromkeys(names) | {"eps": 1e-5} | dict(zip(names, args, strict=False)) | kwargs
        x, factor, epsilon = given["input"], given["weight"], given["eps"]
        source = self.source(x)
        if source is x or x.ndim != 3 or x.shape[:2] != (1, source.shape[0]) or not _is_same_memory(x, source):
            return None
        if not given["training"] or any(given[name] is not None for name in ("running_mean", "running_var", "bias")):
            return None
        if factor is not None:
            made = F.batch_norm(x.detach(), None, None, training=True, eps=epsilon)
        rows, entries = made.detach().view(x.shape[1:]), x.detach()[0]
        # ‖(θ − μ)s‖² = s² M·variance and ⟨θ, (θ − μ)s⟩ = s M·variance, unless the variance is lost beside ε
        squares = torch.linalg.vector_norm(rows, dim=1).square()
        inverse = squares / torch.linalg.vecdot(rows, entries)
        small = (squares < 0.5 * rows.shape[1]).nonzero().flatten()
        if small.numel():
            inverse[small] = (entries[small].var(1, correction=0) + epsilon).rsqrt()
        return Standardised(source, factor, inverse, rows.view(source.shape))

    def pull_back(self, gradients: dict[int, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every parameter with its gradients [N, *shape], given those of reparametrised tensors by id."""
        if not gradients:
            return
        found = torch.autograd.grad(
            [self.tensors[key] for key in gradients], [leaf for _, leaf in self._leaves.values()],
            list(gradients.values()), is_grads_batched=True, retain_graph=True, allow_unused=True,
        )  # fmt: skip
        for (parameter, _), gradient in zip(self._leaves.values(), found, strict=True):
            if gradient is not None:
                yield parameter, gradient


def _is_same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same entries in the same order, however shaped."""
    return a.data_ptr() == b.data_ptr() and a.numel() == b.numel() and a.is_contiguous() and b.is_contiguous()


def _rearranges(func: Callable[..., Any], args: Any, given: Tensor, made: Tensor) -> bool:
    """Whether each entry of `given` is exactly one entry of `made`."""
    if (made.numel(), made.dtype, made.device) != (given.numel(), given.dtype, given.device):
        return False
    if func is Tensor.__getitem__:  # without tensors and lists an index selects no entry twice
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return all(part is None or part is Ellipsis or type(part) in (int, slice) for part in index)
    return func in _REARRANGING


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in a nest of tuples, lists and dictionaries."""
    found, waiting = [], [value]
    for item in waiting:  # grows on the way: a recursion would make every intercepted call ten times as slow
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
    return found


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return value
