"""Watch a forward pass and replace every operation on a parameter by its closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from lightning_gradood.gradients.derived import tensors_in
from lightning_gradood.gradients.families import MATCHES, REWRITES
from lightning_gradood.gradients.layer import Call, Recorded
from lightning_gradood.gradients.tally import Tally

Step = tuple[str, str, tuple[int, ...]]
"""A function's name, the closed form that replaced it ("derived" or "unknown" if none), its parameters' columns."""


class Interception(TorchFunctionMode):
    """While active, calls with a parameter among their arguments are replaced.

    A torch function mode sees `F.conv2d(x, self.weight)` wherever it is written and lets in-place activations be,
    where module hooks fail at both. Parameters have to be frozen meanwhile. In this order, a call with a parameter

    1. goes through a closed form (`families.MATCHES`),
    2. is spelt out in simpler calls, which are intercepted in turn (`families.REWRITES`),
    3. makes a derived tensor, if nothing but parameters and constants goes into it,
    4. is unknown.

    Attributes:
        trace: for each intercepted call its function's name, what became of it and its parameters' columns: equal
            traces mean that the network did the same with the same parameters, and that it was understood alike.
        unknown: names of functions that no closed form covers; then the pass is of no use.
    """

    def __init__(self, tally: Tally, device: torch.device) -> None:
        super().__init__()
        self.trace: list[Step] = []
        self.unknown: list[str] = []
        self.anchor = torch.zeros((), device=device, requires_grad=True)
        self._tally = tally
        self._images: Tensor | None = None
        self._from_images = WeakIdKeyDictionary()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace `func` if it takes a parameter."""
        kwargs = kwargs or {}
        given = tensors_in((args, kwargs))
        used = [tensor for tensor in given if self._tally.knows(tensor)]
        # no gradient goes through what happens under no_grad, inside a custom autograd function for one
        if not used or not torch.is_grad_enabled():
            result = func(*args, **kwargs)
            self._follow_images(given, result)
            return result
        call = Call(args, kwargs, self._tally, self._is_from_images)
        found = next(filter(None, (match(call) for match in MATCHES.get(func, ()))), None)
        if found is not None:
            layer, x = found
            self._note(func, type(layer).__name__, used * layer.steps)
            for tensor in layer.parameters:
                self._tally.use(tensor)
            return Recorded.apply(self.anchor, layer, self._tally, x)
        if func in REWRITES and (rewrite := REWRITES[func](call)) is not None:
            with self:
                return rewrite()
        return self._without_closed_form(func, args, kwargs, given, used)

    def _without_closed_form(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[Tensor],
        used: list[Tensor],
    ) -> Any:
        constant = all(self._tally.knows(tensor) or not tensor.requires_grad for tensor in given)
        derived, is_parameter = self._tally.derived, self._tally.is_parameter
        result = derived.apply(func, args, kwargs, is_parameter) if constant else func(*args, **kwargs)
        if not tensors_in(result):
            return func(*args, **kwargs)  # a shape or a dtype carries no gradient; ask the parameter itself
        self._note(func, "derived" if constant else "unknown", used)
        if not constant:
            self.unknown.append(getattr(func, "__name__", str(func)))
        return result

    def _follow_images(self, given: list[Tensor], result: Any) -> None:
        """Remember what is computed from the images before any parameter, as it may have several rows for each."""
        for tensor in tensors_in(result):
            if not tensor.requires_grad and any(map(self._is_from_images, given)):
                self._from_images[tensor] = True

    def _is_from_images(self, tensor: Tensor) -> bool:
        """Whether `tensor`, which has no gradient, is the images or made from them; they are what comes first with N rows.

        A constant that is taken for them is not trusted by the plan; images that are taken for a constant are right, slowly.
        """
        if self._images is None and tensor.ndim > 1 and len(tensor) == self._tally.batch and tensor.is_floating_point():
            self._images = tensor
        return tensor is self._images or tensor in self._from_images

    def _note(self, func: Callable[..., Any], became: str, used: list[Tensor]) -> None:
        columns = tuple(self._tally.column(tensor) for tensor in used)
        self.trace.append((getattr(func, "__name__", str(func)), became, columns))
