"""Tensors computed from parameters alone (a reparametrised weight, a transposed or indexed one) and the way back.

A derived tensor stands in for a parameter: closed forms give its per-sample gradients, and one batched backward pass
through its own small graph turns them into the parameters'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class Derived:
    """The graph from parameters to derived tensors during one forward pass; parameters themselves stay frozen."""

    def __init__(self) -> None:
        self._leaves: dict[int, tuple[Tensor, Tensor]] = {}  # id of a parameter -> itself, an alias that records
        self._tensors: dict[int, Tensor] = {}

    def knows(self, tensor: object) -> bool:
        """Whether `tensor` came from `apply`."""
        return id(tensor) in self._tensors

    def elements(self) -> int:
        """Number of gradient entries that every image needs for a way back."""
        return sum(t.numel() for t in self._tensors.values()) + sum(p.numel() for p, _ in self._leaves.values())

    def apply(
        self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], is_parameter: Callable[[Tensor], bool]
    ) -> Any:
        """Call `func` with recording aliases in place of parameters and adopt the tensors that it returns."""

        def alias(tensor: Tensor) -> Tensor:
            if not is_parameter(tensor):
                return tensor
            if id(tensor) not in self._leaves:
                self._leaves[id(tensor)] = (tensor, tensor.detach().requires_grad_())
            return self._leaves[id(tensor)][1]

        result = func(*_mapped(args, alias), **_mapped(kwargs, alias))
        for tensor in tensors_in(result):
            if tensor.requires_grad:  # otherwise no gradient goes through it, as after detach()
                self._tensors[id(tensor)] = tensor
        return result

    def has_leaf(self, parameter: Tensor) -> bool:
        """Whether a derived tensor was computed from `parameter`."""
        return id(parameter) in self._leaves

    def pull_back(self, gradients: dict[int, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every parameter with its per-sample gradients [N, *shape].

        Args:
            gradients: per-sample gradients [N, *shape] by the id of the derived tensor.
        """
        if not gradients:
            return
        found = torch.autograd.grad(
            [self._tensors[key] for key in gradients],
            [leaf for _, leaf in self._leaves.values()],
            list(gradients.values()),
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=True,
        )
        for (parameter, _), gradient in zip(self._leaves.values(), found, strict=True):
            if gradient is not None:
                yield parameter, gradient


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in a nest of tuples, lists and dictionaries."""
    found, waiting = [], [value]
    for item in waiting:  # which grows on the way; a recursion would cost every intercepted call ten times as much
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
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return value
