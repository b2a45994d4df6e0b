"""What of a network changes: from call to call (`Fingerprint`), within one, and in copies of it on purpose.

Some networks keep a tensor computed from parameters from one call to the next (LeViT's attention biases): its graph is
gone after the first backward pass, and filled under `no_grad` it has none. Others update a buffer. `observe` finds this
out; every pass of such a network goes through a copy of its own (`Afresh`), and the caller's network stays as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal, requiring_grad, to_float64_device
from lightning_gradood.gradients.reparametrised import tensors_in

_HOOKS = [name for name, value in vars(nn.Module()).items() if name.endswith("hooks") and isinstance(value, dict)]
_COUNTED = {*_HOOKS, "_non_persistent_buffers_set"}
_DEPTH = 3  # levels of nested containers that are compared
_ABSENT = object()
_TINY = 0.05  # root mean square of a parameter; a smaller one could hide errors behind it

Place = tuple[str, str]
"""A module's name in its network, and the name of an attribute or a buffer in that module."""


class Fingerprint:
    """A network's state when its way was made, without what every pass changes (`moving`); it is not kept alive.

    Version counters tell every change that goes through torch, and two entries of each tensor those through `.data`.
    Attributes are compared into dictionaries, lists and plain objects, such as a configuration that all modules share.
    """

    def __init__(self, network: nn.Module, moving: Collection[Place] = ()) -> None:
        self._moving = set(moving)
        modules = dict(network.named_modules())
        self._inner = list(modules.values())[1:]  # kept, so that no other module gets their identities
        self._modules, self._tensors = self._seen(modules), self._fixed(modules)
        values = [value for _, held in self._modules.values() for key, value in held.items() if key not in _COUNTED]
        containers = {id(one): one for one in values if isinstance(one, dict | list | set) or _is_settings(one)}
        self._containers = [(value, frozen(value)) for value in containers.values()]
        self._hooks = [held[hook] for _, held in self._modules.values() if held for hook in _HOOKS]
        self._count = sum(map(len, self._hooks))  # not which, as a probed network has a new one in each call
        self._versions = _versions(self._tensors)
        self._samples = [
            tensor.detach()[place]  # a view, which follows the tensor
            for tensor in self._tensors
            if tensor.is_floating_point() and tensor.numel()
            for place in ((0,) * tensor.ndim, tuple(size // 2 for size in tensor.shape))
        ]
        self._values = _joined(self._samples)

    def fits(self, network: nn.Module) -> bool:
        """Whether the network is still the one of the proof."""
        modules = dict(network.named_modules())
        try:
            # dictionaries compare their values by identity first, so that few values are looked at
            return (
                self._seen(modules) == self._modules
                and _versions(self._fixed(modules)) == self._versions
                and sum(map(len, self._hooks)) == self._count
                and all(frozen(value) == kept for value, kept in self._containers)
                and torch.equal(_joined(self._samples), self._values)
            )
        # a module is gone, or a tensor or array in an attribute's place has no single truth value
        except (KeyError, RuntimeError, ValueError):
            return False

    def _seen(self, modules: Mapping[str, nn.Module]) -> dict[str, tuple[int, dict[str, Any]]]:
        """Every module's identity and attributes, but for those that move."""
        found = {name: (id(module), _attributes(module)) for name, module in modules.items()}
        for name, key in self._moving:
            found[name][1].pop(key, None)
        return found

    def _fixed(self, modules: Mapping[str, nn.Module]) -> list[Tensor]:
        """Parameters, and buffers that do not move."""
        return [
            tensor
            for name, module in modules.items()
            for held in (module._parameters, module._buffers)
            for key, tensor in held.items()
            if tensor is not None and (name, key) not in self._moving
        ]


def _attributes(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes, but for its mode and those that hold parameters, buffers and modules."""
    if isinstance(module, torch.jit.ScriptModule):  # whose attributes cannot be read
        return {}
    found = vars(module).copy()
    for key in ("_parameters", "_buffers", "_modules", "training"):
        found.pop(key, None)  # a compiled module keeps no mode of its own
    return found


def _versions(tensors: list[Tensor]) -> list[tuple[int, int, int]]:
    return [(id(tensor), tensor._version, tensor.data_ptr()) for tensor in tensors]


def frozen(value: Any, depth: int = _DEPTH) -> Any:
    """A value that can be compared later: containers entry by entry, tensors and other objects by identity."""
    if isinstance(value, Tensor):
        return (id(value), value._version)
    if depth and isinstance(value, dict):
        return [(frozen(key, 0), frozen(item, depth - 1)) for key, item in value.items()]
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [frozen(item, depth - 1) for item in value]
    if depth and _is_settings(value):
        return (id(value), frozen(vars(value), depth - 1))
    return value if isinstance(value, bool | int | float | complex | str | bytes | None) else id(value)


def _is_settings(value: Any) -> bool:
    """Whether `value` is an object whose attributes say how to compute."""
    kind = type(value)
    own = kind.__module__ != "builtins" and kind.__dictoffset__ != 0
    return own and not isinstance(value, nn.Module | Tensor | type)


def _joined(samples: list[Tensor]) -> Tensor:
    return torch.stack(samples).nan_to_num() if samples else torch.zeros(0)


class Afresh(nn.Module):
    """A network of which every pass is made by a copy that shares its parameters; its modules have the same names.

    `starts` is what some attributes hold when a pass begins, such as an empty cache.
    """

    def __init__(self, network: nn.Module, starts: Mapping[Place, Any]) -> None:
        super().__init__()
        self.__dict__["original"] = network  # no submodule of this one, or names would change
        self._modules, self._parameters, self._buffers = network._modules, network._parameters, network._buffers
        self._starts = dict(starts)
        self.training = network.training

    def forward(self, images: Tensor) -> Any:
        """Return what the network returns."""
        return _sharing(self.__dict__["original"], self._starts)(images)


def _copied(network: nn.Module, shared: Sequence[Any] = ()) -> nn.Module:
    """A deep copy in which tensors with a graph, e.g. a cached weight, have none; `shared` objects are not copied."""
    memo = {id(one): one for one in shared}
    for module in network.modules():
        for tensor in tensors_in([value for name, value in vars(module).items() if name != "_parameters"]):
            if not tensor.is_leaf:  # which deepcopy refuses
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(network, memo)


def _sharing(network: nn.Module, starts: Mapping[Place, Any]) -> nn.Module:
    """A copy that shares the network's parameters, with `starts` in place of some attributes."""
    compiled = [module for module in network.modules() if isinstance(module, torch.jit.ScriptModule)]
    with torch._C.DisableTorchFunction():  # copying is no part of the pass
        made = _copied(network, [*network.parameters(), *compiled])
    for (module, name), value in starts.items():
        attributes = vars(made.get_submodule(module))
        attributes[name] = _start(value)
        if value is _ABSENT:
            del attributes[name]
    return made


def observe(
    network: nn.Module, image: Tensor, parameters: Sequence[nn.Parameter]
) -> tuple[dict[Place, Any] | None, set[Place], Any]:
    """Find out what a forward pass on a finite image [1, ...] changes.

    Returns what `Afresh` needs, or None for a network that may be used as it is; the attributes and buffers that its
    passes change; and a pass's output with its graph. Refuses a network that keeps tensors and cannot be copied.
    """
    before = _values(network)
    holding = [
        (name, key)
        for name, module in network.named_modules()
        for key, value in _attributes(module).items()
        if isinstance(value, dict | list | Tensor) and _holds(value)
    ]
    with requiring_grad(parameters, True):
        try:
            subject = _sharing(network, {})
        except Exception as error:
            logits, changed, keeps = _passed(network, image)
            if not holding and not keeps:
                return None, changed, logits
            raise Refusal(
                "`network` should allow copy.deepcopy, because it keeps tensors from call to call. "
                f"Got {type(error).__name__}: {error}. Register constants as buffers, and compute the rest in every forward."
            ) from error
        logits, changed, keeps = _passed(subject, image)
        starts = {place: _start(before.get(place, _ABSENT)) for place in keeps if not _holds(before.get(place))}
        emptied = {place: _emptied(before[place]) for place in holding}
        starts |= {place: empty for place, empty in emptied.items() if _is_cache(network, image, place, empty, logits)}
        if starts or keeps:
            return starts, changed | starts.keys(), Afresh(network, starts)(image.clone())
        logits, also_changed, _ = _passed(network, image)
    return None, changed | also_changed, logits


def _passed(network: nn.Module, image: Tensor) -> tuple[Any, set[Place], set[Place]]:
    """The output of a pass, the places that it changed, and those of them that hold or held tensors."""
    before = _values(network)
    alive = [tensors_in(value) for value in before.values()]  # so that no new tensor gets the identity of a freed one
    state = {place: frozen(value) for place, value in before.items()}
    logits = network(image.clone())
    now = _values(network)
    after = {place: frozen(value) for place, value in now.items()}
    changed = {place for place in {*now, *state} if after.get(place, _ABSENT) != state.get(place, _ABSENT)}
    del alive
    return logits, changed, {place for place in changed if _holds([now.get(place), before.get(place)])}


def _values(network: nn.Module) -> dict[Place, Any]:
    """Attributes and buffers by their places."""
    return {
        (name, key): value
        for name, module in network.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for key, value in (_attributes(module) | module._buffers).items()
    }


def _is_cache(network: nn.Module, image: Tensor, place: Place, empty: Any, logits: Any) -> bool:
    """Whether an attribute, emptied, is filled again by a forward pass with the same result."""
    with suppress(Exception):
        subject = _sharing(network, {place: empty})
        same = torch.allclose(subject(image.clone()), logits, rtol=1e-3, atol=1e-6)
        return same and _holds(_values(subject).get(place))
    return False


def _holds(value: Any) -> bool:
    """Whether a value is or holds tensors that are not parameters."""
    return any(not isinstance(tensor, nn.Parameter) for tensor in tensors_in(value))


def _start(value: Any) -> Any:
    """A cache that passes may fill."""
    return copy.copy(value) if isinstance(value, dict | list) else value


def _emptied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return None
    empty = copy.copy(value)  # of the same kind, e.g. an OrderedDict
    empty.clear()
    return empty


def in_dtype(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A copy in another dtype, on the network's device or, where that has no float64, on the CPU."""
    made = _copied(network)
    first = next(made.parameters())
    device = to_float64_device(first).device if dtype == torch.float64 else first.device
    made = made.to(device).to(dtype)
    for module in made.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                vars(module)[name] = value.to(device).to(dtype)
    return made


def images_for(network: nn.Module, images: Tensor) -> Tensor:
    """Images on a network's device and in its dtype; they are moved before they become float64."""
    parameter = next(network.parameters())
    return images.to(parameter.device).to(parameter.dtype)


def reveal(parameters: Sequence[nn.Parameter]) -> None:
    """Fill parameters that are zero or tiny with numbers of an ordinary size, the same ones at every call.

    Behind a factor of zero, or a layer scale of 1e-6, a wrong number would be too small to be seen.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in filter(torch.numel, parameters):
            inputs = parameter[0].numel() if parameter.ndim > 1 else 1  # that one output of this weight adds up
            if float(parameter.square().mean().sqrt()) < _TINY / math.sqrt(inputs):
                drawn = torch.rand(parameter.shape, generator=generator)
                positive = parameter.ndim < 2 or inputs == 1  # as scales and temperatures are
                parameter.copy_(0.25 + 0.5 * drawn if positive else (2 * drawn - 1) * math.sqrt(3 / inputs))
