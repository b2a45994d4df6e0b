"""A workaround for torch's batch norm, whose gradient is wrong for one image in an unusual memory layout.

On a CPU, `native_batch_norm_backward` of torch 2.15 looks at the strides of the input and of the gradient to choose
between a kernel for [N, C, H, W] in order and one for channels last. A batch of one image with strides (C, 1, W·C, C),
as `tokens.transpose(1, 2).view(1, C, H, W)` has it, counts as both; where the other tensor lies in order, one of them is
read in the wrong order. Every gradient from there on is wrong. docs/torch_batch_norm.md has the report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

BATCH_NORMS = {F.batch_norm, torch.batch_norm, torch.native_batch_norm, F.instance_norm, torch.instance_norm}


def in_order(tensor: Tensor) -> Tensor:
    """Return `tensor` itself, or a contiguous copy where it is one image in a layout that torch misreads.

    Args:
        tensor: [N, C, ...], a batch norm's input or the gradient of its output.
    """
    if tensor.ndim < 3 or tensor.shape[0] != 1 or tensor.is_contiguous():
        return tensor
    return tensor.contiguous() if tensor.stride(0) != tensor.numel() else tensor


class OrderedBatchNorm(TorchFunctionMode):
    """While active, batch and instance norms of one image see inputs and gradients in order.

    Attributes:
        met: whether a tensor had to be copied since the start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, a batch norm with its input in order and a hook on its output."""
        if func in BATCH_NORMS:
            return self.ordered(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def ordered(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a batch or instance norm."""
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
