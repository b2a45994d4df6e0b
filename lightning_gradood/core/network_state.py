"""A network while it is probed or attacked: exact arithmetic, eval mode, frozen parameters, and logits for an output.

`OrderedBatchNorm` works around a fault of torch 2.15's batch norm, whose backward pass on a CPU reads a single image of
some strides in the wrong order, without an error; docs/torch_batch_norm.md has the report.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from lightning_gradood.core.errors import Refusal
from lightning_gradood.core.progress_lines import say

HALF = (torch.float16, torch.bfloat16)
BATCH_NORMS = {F.batch_norm, torch.batch_norm, torch.native_batch_norm, F.instance_norm, torch.instance_norm}
_LOGITS = "logits"
_said: WeakSet[nn.Module] = WeakSet()
_process = threading.RLock()  # torch's switches for precision belong to the whole process


class OrderedBatchNorm(TorchFunctionMode):
    """While active, batch norms of one image see inputs and gradients in order; `met` says whether one was copied."""

    def __init__(self) -> None:
        super().__init__()
        self.met = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in BATCH_NORMS:
            return self.ordered(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def ordered(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a batch or instance norm with its input in order and a hook on its output that orders the gradient."""
        x = args[0] if args else kwargs["input"]
        if x.device.type != "cpu" or x.ndim < 3 or x.shape[0] != 1:
            return func(*args, **kwargs)
        kept = self._in_order(x)
        result = func(kept, *args[1:], **kwargs) if args else func(**{**kwargs, "input": kept})
        output = result[0] if isinstance(result, tuple) else result
        if output.requires_grad:
            output.register_hook(self._in_order)
        return result

    def _in_order(self, tensor: Tensor) -> Tensor:
        """Copy one image [1, C, ...] in a layout that torch misreads."""
        if tensor.ndim < 3 or tensor.shape[0] != 1 or tensor.is_contiguous() or tensor.stride(0) == tensor.numel():
            return tensor
        self.met = True
        return tensor.contiguous()


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Record gradients in full precision: no inference mode, no autocast, no TF32, nothing compiled, gradients enabled.

    One thread at a time: the others wait.

    >>> with torch.inference_mode(), exact_arithmetic():
    ...     torch.is_grad_enabled()
    True
    """
    with _process, ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        for device in {"cpu", "cuda", accelerator.type if accelerator else "cpu"}:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        _forbid_short_mantissas(stack)
        if torch.get_default_device().type != "cpu":  # the caller's choice of where tensors are made
            stack.enter_context(torch.device("cpu"))
        if (own := torch.get_default_dtype()) != torch.float32:
            stack.callback(torch.set_default_dtype, own)
            torch.set_default_dtype(torch.float32)
        if "torch._dynamo" in sys.modules:  # compiled code runs no hooks and shows no functions
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def uncompiled(network: nn.Module) -> nn.Module:
    """Return a network without `torch.compile` around it or any of its modules, which are exchanged in place; say so."""
    bare: nn.Module = getattr(network, "_orig_mod", network)
    found = bare is not network
    for module in bare.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        found |= vars(module).pop("_compiled_call_impl", None) is not None  # left as a None, it would be in cache keys
        for name, child in module._modules.items():
            module._modules[name] = getattr(child, "_orig_mod", child)
            found |= module._modules[name] is not child
    if found:
        say("torch.compile is taken off the network, whose modules are read one by one.")
    return bare


def _forbid_short_mantissas(stack: ExitStack) -> None:
    """Switch off TF32 and bfloat16 in products of float32; `stack` switches back.

    torch has two descriptions of this, older switches and `fp32_precision` per backend (from 2.9 on), and raises when
    they contradict each other: both are set, and an older one is restored only where it could be read.
    """
    backends = torch.backends
    owners = (backends.cudnn, backends.mkldnn)
    leaves = [getattr(one, name, None) for one in owners for name in ("matmul", "conv", "rnn")]
    present = [leaf for leaf in (backends.cuda.matmul, *leaves) if getattr(leaf, "fp32_precision", None) is not None]
    for leaf in present:
        stack.callback(setattr, leaf, "fp32_precision", leaf.fp32_precision)  # type: ignore[union-attr]
    older: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
        (lambda: backends.cudnn.allow_tf32, lambda value: setattr(backends.cudnn, "allow_tf32", value)),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    ]
    for read, write in older:
        try:
            stack.callback(write, read())
        except RuntimeError:  # "mix of the legacy and new APIs": the caller set `fp32_precision` alone
            continue
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False
    for leaf in present:
        leaf.fp32_precision = "ieee"  # type: ignore[union-attr]


@contextmanager
def frozen_network(network: nn.Module) -> Iterator[None]:
    """Put `network` in eval mode with frozen parameters, in exact arithmetic; restore each flag on leaving.

    Images are cast to its dtype and logits taken out of what it returns, also where torch misreads a single image's
    layout (`OrderedBatchNorm`). The network's call refuses a single image or integers.
    """

    def take_images(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_fitting(module, given[0]), *given[1:]) if given and isinstance(given[0], Tensor) else given

    with exact_arithmetic(), requiring_grad(network.parameters(), False), evaluating(network), ExitStack() as stack:
        if not isinstance(network, torch.jit.ScriptModule):
            stack.callback(network.register_forward_pre_hook(take_images).remove)
        with logits_out(network), OrderedBatchNorm():
            yield


_graphs: ContextVar[bool] = ContextVar("graphs", default=False)


@contextmanager
def keeping_graphs() -> Iterator[None]:
    """While active, what `reading` reads keeps its graph, so that a score can be differentiated by the image."""
    token = _graphs.set(True)
    try:
        yield
    finally:
        _graphs.reset(token)


def graphs_kept() -> bool:
    """Whether `keeping_graphs` is active."""
    return _graphs.get()


@contextmanager
def reading(network: nn.Module) -> Iterator[None]:
    """Read a network in exact arithmetic, frozen in eval mode, without a graph unless `keeping_graphs` is active."""
    with frozen_network(network), torch.set_grad_enabled(graphs_kept()):
        yield


@contextmanager
def probing_state(network: nn.Module) -> Iterator[None]:
    """Let one thread at a time probe `network`: frozen in eval mode, in exact arithmetic, logits for an output.

    Weights that the caller keeps by `parametrize.cached()` are computed anew in every pass: a kept one has lost its
    graph, or never had one. Every flag is restored.
    """
    _refuse_fixed_mode(network)
    with exact_arithmetic(), evaluating(network), requiring_grad(network.parameters(), False), logits_out(network):
        cached, parametrize._cache_enabled = parametrize._cache_enabled, 0
        try:
            yield
        finally:
            parametrize._cache_enabled = cached


def _refuse_fixed_mode(network: nn.Module) -> None:
    if isinstance(network, torch.fx.GraphModule) and "eval" in vars(network):  # torch.export sets it
        raise Refusal(
            "`network` should be a module with train and eval modes. "
            "Got a program of torch.export, whose mode was fixed when it was exported. Pass the module it was made from."
        )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put `network` in eval mode; restore the `training` flag of each of its modules on leaving."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        if any(training for _, training in modes):
            _refuse_fixed_mode(network)
            network.eval()
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training


@contextmanager
def requiring_grad(tensors: Iterable[Tensor], flag: bool) -> Iterator[None]:
    """Set `requires_grad` of each tensor to `flag` and restore each on leaving."""
    changed = [tensor for tensor in tensors if tensor.requires_grad != flag]
    try:
        for tensor in changed:
            tensor.requires_grad_(flag)
        yield
    finally:
        for tensor in changed:
            tensor.requires_grad_(not flag)


def logits_in(output: Any) -> Any:
    """Return an output tensor itself; else its `logits`; else its first tensor with two dimensions; else `output`.

    `output` may also be a tuple, a mapping, a `ModelOutput` or torchvision's `GoogLeNetOutputs`.

    >>> logits_in({"features": torch.zeros(2, 5), "logits": torch.zeros(2, 3)}).shape
    torch.Size([2, 3])
    """
    return _found(output)[1]


def _found(output: Any) -> tuple[str, Any]:
    """Name of the output field, empty for a tensor or where none is found, and the logits."""
    if isinstance(output, Tensor):
        return "", output
    if isinstance(output, tuple | list):
        entries = dict(enumerate(output)) | {_LOGITS: getattr(output, _LOGITS, None)}
    else:
        entries = dict(output) if isinstance(output, Mapping) else dict(getattr(output, "__dict__", {}))
        entries.setdefault(_LOGITS, getattr(output, _LOGITS, None))
    if isinstance(entries[_LOGITS], Tensor):
        return f"`{_LOGITS}`", entries[_LOGITS]
    for name, entry in entries.items():
        if isinstance(entry, Tensor) and entry.ndim == 2:  # a loss or feature maps may stand before it
            return "its first tensor of rows" if isinstance(name, int) else f"`{name}`, its first tensor of rows", entry
    return "", output


@contextmanager
def logits_out(network: nn.Module) -> Iterator[None]:
    """Take the logits out of what a network returns (`logits_in`), also in copies that are made meanwhile.

    Where they have to be looked for, a warning says once for a network which tensor is taken. What torch.jit compiled
    takes no hooks: its output is left as it is.
    """
    if isinstance(network, torch.jit.ScriptModule):
        yield
        return

    def take_logits(_module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        place, logits = _found(output)
        # a binary classifier may give [N]
        if given and isinstance(logits, Tensor) and isinstance(given[0], Tensor) and logits.shape == given[0].shape[:1]:
            logits = logits[:, None]
        words = ""
        if place:
            words = f"The network returns a {type(output).__name__}; {place}, {list(logits.shape)}, is taken as logits."
        if isinstance(logits, Tensor) and logits.dtype in HALF and _own_dtype(network) not in (None, *HALF):
            words += f" The network computes in {logits.dtype}; logits are cast to float32."
            logits = logits.float()
        if words and network not in _said:
            _said.add(network)
            warnings.warn(words.strip(), stacklevel=2)
        return logits

    hook = network.register_forward_hook(take_logits)
    try:
        yield
    finally:
        hook.remove()


def _fitting(network: nn.Module, images: Tensor) -> Tensor:
    """Return images in the dtype of a network's first floating point parameter; refuse a single image or integers."""
    refuse_single_image(network, images)
    own = _own_dtype(network)
    if own is not None and not images.is_floating_point():
        raise Refusal(
            "`images` should be floating point pixels in [0, 1]. "
            f"Got `images.dtype = {images.dtype}`. Convert with `images.float() / 255`."
        )
    return images if own in (None, images.dtype) else images.to(own)


def _own_dtype(network: nn.Module) -> torch.dtype | None:
    return next((one.dtype for one in network.parameters() if one.is_floating_point()), None)


def refuse_single_image(network: nn.Module, images: Tensor) -> None:
    """Refuse one image [C, H, W] for a network of images, which would take its channels for a batch."""
    if images.ndim == 3 and any(isinstance(module, nn.Conv2d) for module in network.modules()):
        raise Refusal(
            "`images` should be a batch [N, C, H, W]. "
            f"Got `images.shape = {list(images.shape)}`. Give one image a leading dimension of 1: `image[None]`."
        )


def input_gradient(output: Tensor, images: Tensor, weight: Tensor | None = None, keep: bool = False) -> Tensor:
    """Gradient of a network's output by its images, a leaf; refuse an output that no gradient leads back from.

    The output is a number, or [N, ...] with a `weight` of its shape, the loss's gradient in it.
    """
    gradient: Tensor | None = None
    if output.requires_grad:
        (gradient,) = torch.autograd.grad(output, images, weight, retain_graph=keep, allow_unused=True)
    if gradient is None:
        raise Refusal(
            "the network's output should depend on its input through autograd. Got an operation through which no gradient comes "
            "back to the images, such as detach, a quantised layer or a custom function whose backward returns None. Pass the "
            "network without it, or leave out attacks and detectors that need the gradient."
        )
    return gradient
