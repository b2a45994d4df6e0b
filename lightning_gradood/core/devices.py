"""What machines differ in: float64 on a device, memory for a batch, and other processes of the run."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_gradood.core.errors import Refusal, first_line
from lightning_gradood.core.progress_lines import say

Result = TypeVar("Result")
_WITHOUT_FLOAT64 = {"mps"}  # types of devices on which a float64 tensor cannot exist
_WORDS = ("out of memory", "can't allocate memory", "not enough memory")  # of CUDA, of torch's allocator, of Windows

LOG_FLOOR = 1e-30
"""Added to a squared norm before its logarithm is taken: those of confident images underflow to zero."""


def to_float64_device(tensor: Tensor) -> Tensor:
    """Return the tensor itself where its device has float64, else a copy on the CPU; any dtype, which is kept."""
    return tensor.cpu() if tensor.device.type in _WITHOUT_FLOAT64 else tensor


def to_float64(tensor: Tensor) -> Tensor:
    """Return a tensor of any dtype as float64, on its own device or the CPU; gradients flow back in its own dtype."""
    return to_float64_device(tensor).double()


def give_back_memory() -> None:
    """Return freed blocks to the system, where glibc allocates: records kept between batches would split its heap."""
    with suppress(AttributeError, TypeError):  # another C library; Windows
        ctypes.CDLL(None).malloc_trim(0)


def gathered(mine: Result) -> list[Result]:
    """Return a list of every process's `mine`, pickled, in rank order, on each of this package's processes."""
    if not dist.is_initialized():
        return [mine]
    found = [mine] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


class Portions:
    """Does the work of a batch in portions that fit into memory; `most` images are in one, None while whole batches fit.

    >>> Portions().run(lambda rows: rows, 64)
    [slice(0, 64, None)]
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def run(self, work: Callable[[slice], Result], number: int) -> list[Result]:
        """Return what `work` gives for portions of rows 0 to `number`; halve them where memory does not suffice.

        `work` must not depend on which rows are in a portion. Halving prints a line; one row has to fit.
        """
        done: list[Result] = []
        first, reason = 0, ""
        while first < number:
            rows = slice(first, min(number, first + (self.most or number)))
            if reason:  # only now are the tensors of the failed attempt free
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            try:
                done.append(work(rows))
                first, reason = rows.stop, ""
            except (RuntimeError, MemoryError) as error:
                lacking = isinstance(error, MemoryError | torch.OutOfMemoryError)
                if not (lacking or any(one in str(error) for one in _WORDS)):
                    raise
                reason = first_line(error)
                self._halve(rows.stop - rows.start, reason)
        return done

    def _halve(self, number: int, reason: str) -> None:
        if number == 1:
            raise Refusal(
                f"Memory should suffice for one image at a time. Got: {reason}. End other programs that use this memory, or use "
                "smaller images, fewer label designs or another --trainer.accelerator."
            )
        self.most = number // 2
        say(f"Out of memory with {number} images at once ({reason}): going on with {self.most} at once.")
