"""The only place that imports advertorch, which asks for a function that torch no longer has.

advertorch 0.2.3 imports `zero_gradients` from `torch.autograd.gradcheck`, which torch 1.9 removed. It stands there while
advertorch is imported and not a moment longer.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lightning_gradood.core import Refusal


def _zero_gradients(tensor: Tensor) -> None:
    if tensor.grad is not None:
        tensor.grad.detach_().zero_()


@contextmanager
def _as_before_torch_1_9() -> Iterator[None]:
    gradcheck: Any = importlib.import_module(
        "torch.autograd.gradcheck"
    )  # an import statement finds the function instead
    gradcheck.zero_gradients = _zero_gradients
    try:
        yield
    finally:
        del gradcheck.zero_gradients


with _as_before_torch_1_9():
    from advertorch.attacks import Attack as AdvertorchBase
    from advertorch.attacks import CarliniWagnerL2Attack, GradientSignAttack
    from advertorch.attacks.iterative_projected_gradient import perturb_iterative

__all__ = ["CarliniWagnerL2Attack", "GradientSignAttack", "advertorch_class", "perturb_iterative"]


def advertorch_class(path: str) -> type[Any]:
    """Find an attack class by its import path.

    Args:
        path: such as "advertorch.attacks.MomentumIterativeAttack".

    Raises:
        Refusal: There is no such thing, or it is no attack of advertorch's kind.
    """
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError):
        found = None
    if inspect.isclass(found) and issubclass(found, AdvertorchBase):
        return found
    raise Refusal(
        f"`attack` should be the import path of an attack class of advertorch. Got `attack = {path!r}`. "
        'Write e.g. "advertorch.attacks.MomentumIterativeAttack".'
    )
