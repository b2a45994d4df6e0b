"""Context managers that make a pass exact and restore what they change: precision, train/eval mode, requires_grad.

`OrderedBatchNorm` works around a fault of torch's batch norm: on a CPU, `native_batch_norm_backward` of torch 2.15
looks at the strides of the input and of the gradient to choose between a kernel for [N, C, H, W] in order and one for
channels last. A batch of one image with strides (C, 1, W·C, C), as `tokens.transpose(1, 2).view(1, C, H, W)` has it,
counts as both; where the other tensor lies in order, one of them is read in the wrong order without an error, and every
gradient from there on is wrong. docs/torch_batch_norm.md has the report.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from lightning_gradood.core.errors import Refusal
from lightning_gradood.core.outputs import images_in_logits_out, logits_out

BATCH_NORMS = {F.batch_norm, torch.batch_norm, torch.native_batch_norm, F.instance_norm, torch.instance_norm}


def in_order(tensor: Tensor) -> Tensor:
    """Return an input or output gradient [N, C, ...], copied if it is one image in a layout that torch misreads."""
    if tensor.ndim < 3 or tensor.shape[0] != 1 or tensor.is_contiguous():
        return tensor
    return tensor.contiguous() if tensor.stride(0) != tensor.numel() else tensor


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
        kept = self._noted(x)
        result = func(kept, *args[1:], **kwargs) if args else func(**{**kwargs, "input": kept})
        output = result[0] if isinstance(result, tuple) else result
        if output.requires_grad:
            output.register_hook(self._noted)
        return result

    def _noted(self, tensor: Tensor) -> Tensor:
        kept = in_order(tensor)
        self.met = self.met or kept is not tensor
        return kept


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Record gradients in full precision: no inference mode, no autocast, no TF32, gradients enabled.

    >>> with torch.inference_mode(), exact_arithmetic():
    ...     torch.is_grad_enabled()
    True
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in {"cpu", "cuda", _accelerator()}:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_full_float32())
        yield


@contextmanager
def frozen_network(network: nn.Module) -> Iterator[None]:
    """Put `network` in eval mode with frozen parameters, as attacks and probes need it; restore each flag on leaving.

    Images are cast to its dtype and logits found in what it returns (`images_in_logits_out`); gradients behind batch
    norm are right for a single image, too (`OrderedBatchNorm`).
    """
    with (
        requiring_grad(network.parameters(), False),
        evaluating(network),
        images_in_logits_out(network),
        OrderedBatchNorm(),
    ):
        yield


@contextmanager
def probing_state(network: nn.Module, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let one thread at a time probe `network`: its `modules` in eval mode, in exact arithmetic, logits for an output.

    Weights that the caller keeps by `parametrize.cached()` are computed anew in every pass. Every flag is restored.
    """
    _refuse_fixed_mode(network)
    with (
        _alone_with(network),
        exact_arithmetic(),
        _without_cached_parametrizations(),
        evaluating(network, modules),
        logits_out(network),
    ):
        yield


def _refuse_fixed_mode(network: nn.Module) -> None:
    """Refuse a program of torch.export, which has no train and eval modes."""
    if isinstance(network, torch.fx.GraphModule) and "eval" in vars(network):  # torch.export sets it
        raise Refusal(
            "`network` should be a module with train and eval modes. "
            "Got a program of torch.export, whose mode was fixed when it was exported. Pass the module it was made from."
        )


@contextmanager
def evaluating(network: nn.Module, modules: Iterable[nn.Module] | None = None) -> Iterator[None]:
    """Put `network` in eval mode; restore the `training` flag of each of its `modules` on leaving."""
    modes = [(module, module.training) for module in (network.modules() if modules is None else modules)]
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


def _accelerator() -> str:
    if not torch.accelerator.is_available():
        return "cpu"
    device = torch.accelerator.current_accelerator()
    return "cpu" if device is None else device.type


_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()


@contextmanager
def _alone_with(network: nn.Module) -> Iterator[None]:
    """Keep other threads from changing a network's mode and flags meanwhile; each network has a lock of its own."""
    with _guard:
        lock = _locks.setdefault(network, threading.RLock())
    with lock:
        yield


@contextmanager
def _without_cached_parametrizations() -> Iterator[None]:
    """Compute reparametrised weights anew in every pass, also within the caller's `parametrize.cached()`.

    A weight that is kept from an earlier pass has lost its graph, or has none if it was computed under `no_grad`.
    """
    enabled = parametrize._cache_enabled
    try:
        parametrize._cache_enabled = 0
        yield
    finally:
        parametrize._cache_enabled = enabled


@contextmanager
def _full_float32() -> Iterator[None]:
    """Forbid the short mantissas (TF32, bfloat16) that float32 products may otherwise be computed with.

    The switches belong to the whole process: the first thread to enter sets them, the last one to leave restores them.
    """
    with _guard:
        if not _precision.users:
            _precision.save()
        _precision.users += 1
    try:
        yield
    finally:
        with _guard:
            _precision.users -= 1
            if not _precision.users:
                _precision.restore()


class _Precision:
    """torch's switches for float32 products.

    torch has two descriptions of them, the older switches and `fp32_precision` per backend (from 2.9 on), and raises
    when they contradict each other; so both are set, and the older ones are restored only where they could be read.
    """

    def __init__(self) -> None:
        self.users = 0
        self._restore: list[Callable[[], None]] = []

    def save(self) -> None:
        backends = torch.backends
        leaves = [backends.cuda.matmul, *(
            leaf
            for backend in (backends.cudnn, backends.mkldnn)
            for leaf in (getattr(backend, name, None) for name in ("matmul", "conv", "rnn"))
            if leaf is not None
        )]  # fmt: skip
        values = [getattr(leaf, "fp32_precision", None) for leaf in leaves]
        matmul = _readable(torch.get_float32_matmul_precision)
        cudnn = _readable(lambda: backends.cudnn.allow_tf32)
        self._restore = [lambda: _set_precisions(leaves, values)]
        if cudnn is not None:
            self._restore.insert(0, lambda: setattr(backends.cudnn, "allow_tf32", cudnn))
        if matmul is not None:
            self._restore.insert(0, lambda: torch.set_float32_matmul_precision(matmul))
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
        _set_precisions(leaves, ["ieee" if value is not None else None for value in values])

    def restore(self) -> None:
        for step in self._restore:
            step()


_precision = _Precision()


def _readable(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:  # "mix of the legacy and new APIs": the caller set `fp32_precision` alone
        return None


def _set_precisions(leaves: Sequence[Any], values: Sequence[str | None]) -> None:
    for leaf, value in zip(leaves, values, strict=True):
        if value is not None:
            leaf.fp32_precision = value
