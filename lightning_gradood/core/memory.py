"""Work on a batch in portions where memory does not suffice for all of it."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from lightning_gradood.core.errors import Refusal
from lightning_gradood.core.progress import say

Result = TypeVar("Result")
_WORDS = ("out of memory", "can't allocate memory", "not enough memory")  # of CUDA, of torch's allocator, of Windows


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory does not suffice, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


class Portions:
    """Does the work of a batch in portions that fit into memory, and remembers how large these may be.

    `most` is the number of images in a portion; None as long as whole batches fit.

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
        first = 0
        while first < number:
            rows = slice(first, min(number, first + (self.most or number)))
            reason = None
            try:
                done.append(work(rows))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
            if reason is None:
                first = rows.stop
                continue
            self._halve(rows.stop - rows.start, reason)  # only now are the tensors of the failed attempt free
        return done

    def _halve(self, number: int, reason: str) -> None:
        if number == 1:
            raise Refusal(
                f"Memory should suffice for one image at a time. Got: {reason}. End other programs that use this memory, or use "
                "smaller images, fewer label designs or another --trainer.accelerator."
            )
        self.most = number // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"Out of memory with {number} images at once ({reason}): going on with {self.most} at once.")
