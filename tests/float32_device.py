"""A device without float64 for machines that have none such, as a backend of torch written in Python.

Its tensors hold a CPU tensor each and compute with it. What Apple's MPS refuses, it refuses: a tensor of float64 or
complex128, wherever it would come into being, and operations that mix its tensors with the CPU's. Importing this file
registers the backend for the rest of the process; `without_float64` switches it on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from lightning_gradood.core import precision

NAME = "single"  # a name that no backend of torch bears
_REFUSED = (torch.float64, torch.complex128)
_CROSSING = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_"}  # may take tensors of two devices


class OnDevice(Tensor):
    """A tensor on the device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        if held.dtype in _REFUSED:
            raise TypeError(f"the device {NAME} has no {held.dtype}")
        with torch.inference_mode(False):  # views of an inference tensor of this kind fail under inference mode
            made = Tensor._make_wrapper_subclass(
                cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
                device=torch.device(NAME, 0),
            )  # fmt: skip
        made.held = held
        return made

    def __repr__(self) -> str:  # torch's own would compute
        return f"OnDevice({self.held})"

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: OnDevice) -> None:
        self.held = value.held

    def tolist(self) -> Any:  # torch's own is for plain tensors alone, as are those beside it
        return self.held.tolist()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def __reduce_ex__(self, protocol: Any) -> Any:
        about = (self.held, self.dtype, NAME, self.requires_grad)
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, about

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        simpler = func.decompose(*args, **kwargs or {})  # inference mode leaves composite operations to the device
        return _computed(func, args, kwargs or {}) if simpler is NotImplemented else simpler


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute with the tensors held; the result is on the device unless the call sends it elsewhere."""
    name = func._schema.name
    mixed = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and not isinstance(t, OnDevice) and t.ndim]
    if mixed and name not in _CROSSING:
        raise RuntimeError(f"{name} was given tensors of the device {NAME} and of the CPU")
    leaves = kwargs.get("device") is not None and torch.device(kwargs["device"]).type != NAME
    if name == "aten::copy_":
        leaves = not isinstance(args[0], OnDevice)
        _refuse_float64(args if not leaves else ())
    held_args, held_kwargs = tree_map_only(OnDevice, lambda tensor: tensor.held, (args, kwargs))
    if "device" in held_kwargs:
        held_kwargs["device"] = torch.device("cpu")
    if leaves and name == "aten::_to_copy":
        return func(*held_args, **held_kwargs)
    if leaves:
        func(*held_args, **held_kwargs)
        return args[0]
    out = tree_map_only(Tensor, OnDevice, func(*held_args, **held_kwargs))
    return return_and_correct_aliasing(func, args, kwargs, out)


def _refuse_float64(tensors: Any) -> None:
    """A float64 tensor is rounded before it travels: whether MPS rounds it on the way depends on torch's version."""
    if any(isinstance(tensor, Tensor) and tensor.dtype in _REFUSED for tensor in tensors):
        raise TypeError(f"a float64 tensor was sent to the device {NAME}")


def _copied(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _refuse_float64([source] if isinstance(target, OnDevice) else [])
    plain = [tensor.held if isinstance(tensor, OnDevice) else tensor for tensor in (source, target)]
    plain[1].copy_(plain[0])
    return target


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks of a backend; only while it is switched on it says that it is there."""

    present = False

    def is_available(self) -> bool:
        return self.present

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16]

    def get_rng_state(self, device: Any = 0) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None:
        torch.set_rng_state(state)


class OneDevice(Accelerator):
    """Lightning's way to it: `--trainer.accelerator single --trainer.strategy single`."""

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


def _registered() -> tuple[_Backend, Any]:
    """Tell torch how tensors are made on the device and sent to it."""
    backend = _Backend()
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend)
    library = torch.library.Library("aten", "IMPL", "PrivateUse1")
    for op in (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_strided.default):
        library.impl(op, lambda *args, op=op, **options: OnDevice(op(*args, **options | {"device": "cpu"})))
    library.impl("_copy_from", _copied)
    AcceleratorRegistry.register(NAME, OneDevice)
    StrategyRegistry.register(NAME, SingleDeviceStrategy, device=torch.device(NAME, 0))
    return backend, library  # which works as long as it is kept


_backend, _library = _registered()  # before the first backward pass, at which torch counts its devices


@contextmanager
def without_float64() -> Iterator[torch.device]:
    """Give the device; torch and the package know of it until the end."""
    _backend.present = True
    precision.WITHOUT_FLOAT64.add(NAME)
    try:
        yield torch.device(NAME)
    finally:
        precision.WITHOUT_FLOAT64.remove(NAME)
        _backend.present = False
