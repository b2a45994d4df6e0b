"""The only place that imports advertorch, when an attack first needs it; it asks for a function that torch no longer has.

advertorch 0.2.3 imports `zero_gradients` from `torch.autograd.gradcheck`, which torch 1.9 removed. It stands there while
advertorch is imported and not a moment longer.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gradood.core import Refusal, check_import


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


class Advertorch(NamedTuple):
    """What is used of advertorch."""

    base: type[Any]
    sign_step: type[Any]
    carlini_wagner: type[Any]
    walk: Callable[..., Tensor]


@cache
def advertorch() -> Advertorch:
    """Import advertorch when the first attack that needs it is made: without it all others work.

    Raises:
        Refusal: it cannot be imported with this torch.
    """
    try:
        with _as_before_torch_1_9():
            from advertorch.attacks import Attack, CarliniWagnerL2Attack, GradientSignAttack
            from advertorch.attacks.iterative_projected_gradient import perturb_iterative
    except Exception as error:  # whatever a torch that it does not know makes it raise
        raise Refusal(
            f"FGSM, BIM, PGD, IterLL, C&W and AdvertorchAttack need advertorch 0.2.3. Got, with torch {torch.__version__}, "
            f"{type(error).__name__}: {error}. Install the torch of constraints.txt; all other attacks and corruptions work."
        ) from error
    return Advertorch(Attack, GradientSignAttack, _any_precision(CarliniWagnerL2Attack), perturb_iterative)


def _any_precision(base: type[Any]) -> type[Any]:
    """advertorch keeps the best distances in float32 and cannot store those of float64 images among them."""

    def forward_and_update_delta(self: Any, *state: Any) -> tuple[float, Tensor, Tensor, Tensor]:
        loss, distances, logits, images = base._forward_and_update_delta(self, *state)
        return loss, distances.float(), logits, images

    return type("CarliniWagnerL2Attack", (base,), {"_forward_and_update_delta": forward_and_update_delta})


def advertorch_class(path: str) -> type[Any]:
    """Find an attack class by its import path.

    Args:
        path: such as "advertorch.attacks.MomentumIterativeAttack".

    Raises:
        Refusal: advertorch cannot be imported, there is no such thing, or it is no attack of advertorch's kind.
    """
    base = advertorch().base
    check_import(path.replace(":", "."))
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError):
        found = None
    if inspect.isclass(found) and issubclass(found, base):
        return found
    raise Refusal(
        f"`attack` should be the import path of an attack class of advertorch. Got `attack = {path!r}`. "
        'Write e.g. "advertorch.attacks.MomentumIterativeAttack".'
    )
