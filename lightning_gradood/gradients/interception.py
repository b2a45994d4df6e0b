"""Watch a forward pass and replace every operation on a parameter by its closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_gradood.gradients.families import MATCHES
from lightning_gradood.gradients.layer import Call, Recorded
from lightning_gradood.gradients.tally import Tally


class Interception(TorchFunctionMode):
    """While active, calls with a parameter among their arguments go through `families.MATCHES`.

    A torch function mode sees `F.conv2d(x, self.weight)` wherever it is written and lets in-place activations be,
    where module hooks fail at both. Parameters have to be frozen meanwhile.

    Attributes:
        trace: for each intercepted call its function's name and its parameters' columns: equal traces mean that the
            network did the same with the same parameters.
        unknown: what happened to parameters that no closed form covers; then the pass is of no use.
    """

    def __init__(self, tally: Tally, device: torch.device) -> None:
        super().__init__()
        self.trace: list[tuple[str, tuple[int, ...]]] = []
        self.unknown: list[str] = []
        self._tally = tally
        self.anchor = torch.zeros((), device=device, requires_grad=True)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace `func` if it takes a parameter and a closed form matches."""
        kwargs = kwargs or {}
        used = [tensor for tensor in _tensors((args, kwargs)) if self._tally.knows(tensor)]
        if not used:
            return func(*args, **kwargs)
        match = MATCHES.get(func)
        found = match(Call(args, kwargs, self._tally)) if match else None
        if found is None:
            result = func(*args, **kwargs)
            if any(True for _ in _tensors(result)):  # a shape or a dtype carries no gradient
                self._trace(func, used)
                self.unknown.append(getattr(func, "__name__", str(func)))
            return result
        layer, x = found
        self._trace(func, used)
        for parameter in layer.parameters:
            if parameter is not None and self._tally.knows(parameter):
                self._tally.use(parameter)
        return Recorded.apply(self.anchor, layer, self._tally, x)

    def _trace(self, func: Callable[..., Any], used: list[Tensor]) -> None:
        columns = tuple(self._tally.column(tensor) for tensor in used)
        self.trace.append((getattr(func, "__name__", str(func)), columns))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
