"""Checks of a network, its images and its logits before gradient norms are computed, each with its own refusal.

`structure_of` keeps a network's modules and parameters by name between calls, since walking over them takes as long as
a small layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from lightning_gradood.core import Refusal, check_batch, check_logits_shape


class Structure:
    """A network's modules and parameters by name, without the network itself, so that it can be freed.

    `parameters` has each tensor once, under its first name, in the order of `named_parameters`.
    """

    def __init__(self, network: nn.Module) -> None:
        modules = dict(network.named_modules())
        self._inner = {name: module for name, module in modules.items() if name}
        self._compiled = any(is_compiled(module) for module in modules.values())
        # a module that torch.jit compiled makes these anew at each look
        self._registries = (
            [] if self._compiled else [r for module in modules.values() for r in (module._modules, module._parameters)]
        )
        self._names, self._ids = _contents(self._registries)
        self.parameters = _named_parameters(modules)

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """Equal `named_modules`."""
        return {"": network, **self._inner}

    def is_current(self) -> bool:
        """Whether nothing was added, removed or exchanged since."""
        if self._compiled:
            return False
        return _contents(self._registries) == (self._names, self._ids)


_structures: WeakKeyDictionary[nn.Module, Structure] = WeakKeyDictionary()


def structure_of(network: nn.Module) -> Structure:
    """Return a network's structure, from an earlier call if it is still the same."""
    known = _structures.get(network)
    if known is None or not known.is_current():
        known = _structures[network] = Structure(network)
    return known


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.jit compiled the module, so that its attributes cannot be read."""
    return isinstance(module, torch.jit.ScriptModule)


def _contents(registries: list[dict[str, Any]]) -> tuple[list[str], list[int]]:
    """Names and identities of what modules have registered, without a loop in Python."""
    return list(chain.from_iterable(registries)), list(map(id, chain.from_iterable(map(dict.values, registries))))


def _named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Equal `named_parameters` for these `named_modules`: each tensor once, under its first name."""
    first: dict[nn.Parameter, str] = {}
    for prefix, module in modules.items():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                first.setdefault(parameter, f"{prefix}.{name}" if prefix else name)
    return {name: parameter for parameter, name in first.items()}


def check_module(network: nn.Module) -> None:
    """Refuse what is no module."""
    if not isinstance(network, nn.Module):
        raise Refusal(
            "`network` should be a torch.nn.Module, because its parameters are what gradients are taken of. "
            f"Got `network = {type(network).__name__}`. Pass the module itself, not a function that calls it."
        )


def check_network(network: nn.Module, named: Mapping[str, nn.Parameter], modules: Mapping[str, nn.Module]) -> None:
    """Refuse a network, given with its parameters and modules by name, that cannot be differentiated throughout."""
    if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise Refusal(
            "`network` should be the bare network, because a parallel wrapper would average its gradients. "
            f"Got `network = {type(network).__name__}`. Pass `network.module`."
        )
    for name, parameter in named.items():
        if is_lazy(parameter):
            raise Refusal(
                "`network` should have initialised parameters. "
                f"Got `{name}` without a shape. Run the network once on a batch of images."
            )
        if parameter._backward_hooks:
            raise Refusal(
                "`network` should have no hooks on its parameters, because they may change the gradients that are measured. "
                f"Got one on `{name}`. Take it off meanwhile: `handle.remove()` for the handle of register_hook."
            )
        if parameter.is_complex():
            raise Refusal(
                "`network` should have real parameters. "
                f"Got `{name}`, {parameter.dtype}. Keep real and imaginary part in one parameter of torch.view_as_real."
            )
        if parameter.is_inference() or not parameter.is_floating_point():
            kind = "an inference tensor" if parameter.is_inference() else str(parameter.dtype)
            raise Refusal(
                "`network` should have floating point parameters that can record gradients. "
                f"Got `{name}`, {kind}. Build or load the network outside torch.inference_mode and unquantised."
            )
    for name, module in modules.items():
        if "quantized" in type(module).__module__ and "nn" in type(module).__module__:
            raise Refusal(
                "`network` should have floating point parameters that can record gradients. "
                f"Got `{name}`, a quantised {type(module).__name__}, through which no gradient passes. "
                "Pass the network as it was before quantisation."
            )


class RefusingQuantised(TorchFunctionMode):
    """While active, a function that returns a quantised tensor is refused: no gradient passes through it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_quantized:
            raise Refusal(
                "`network` should compute with floating point numbers throughout. "
                f"Got a quantised tensor from `{getattr(func, '__name__', func)}`, through which no gradient passes. "
                "Pass the network as it was before quantisation."
            )
        return result


def check_images(images: Tensor, named: Mapping[str, nn.Parameter]) -> None:
    """Refuse images that are not a batch of floating point pixels on the device of the parameters, `named`."""
    if not named:
        raise Refusal(
            "`network` should have at least one parameter, because gradients are taken with respect to parameters. "
            "Got a network without any. Pass the classifier itself."
        )
    check_batch(images)
    found = {parameter.device for parameter in named.values()}
    if any(device.type == "meta" for device in (images.device, *found)):
        what = "`images`" if images.device.type == "meta" else "`network`"
        raise Refusal(
            f"{what} should hold numbers. Got tensors on the meta device, which have shapes alone. "
            "Create them on the CPU or an accelerator; `network.to_empty(device=...)` and load_state_dict do so for weights."
        )
    if found != {images.device}:
        devices = sorted(map(str, found))
        raise Refusal(
            "`images` should be on the device of the network's parameters. "
            f"Got `images.device = {images.device}` and parameters on {', '.join(devices)}. "
            f"Move them with `images.to({devices[0]!r})`."
        )


def check_logits(logits: Tensor, number: int) -> None:
    """Refuse an output that is not one row of logits, with a graph behind it, for each of `number` images."""
    check_logits_shape(logits, number)
    if not logits.is_floating_point():
        raise Refusal(
            "the network's output should be floating point logits. "
            f"Got `output.dtype = {logits.dtype}`. Return the scores before argmax."
        )
    if not logits.requires_grad:
        raise Refusal(
            "the network's output should depend on its parameters through autograd. "
            "Got an output without a graph. Remove torch.no_grad, detach or .data from its forward."
        )
