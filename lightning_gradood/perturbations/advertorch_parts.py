"""The only import of advertorch, when an attack first needs it, with a function that torch 1.9 removed.

advertorch 0.2.3 imports `zero_gradients` from `torch.autograd.gradcheck`; it stands there only during that import.
"""

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lightning_gradood.core import Refusal


@cache
def advertorch() -> Any:
    """Import `advertorch.attacks` for the first attack that needs it; a Refusal if it cannot be imported with this torch."""
    gradcheck: Any = importlib.import_module("torch.autograd.gradcheck")  # not the function of the same name
    gradcheck.zero_gradients = _zero_gradients
    try:
        return importlib.import_module("advertorch.attacks")
    except Exception as error:  # whatever a torch that it does not know makes it raise
        raise Refusal(
            f"FGSM, BIM, PGD, IterLL, C&W and AdvertorchAttack need advertorch 0.2.3. Got, with torch {torch.__version__}, "
            f"{type(error).__name__}: {error}. Install the torch of constraints.txt; all other attacks and corruptions work."
        ) from error
    finally:
        del gradcheck.zero_gradients


def _zero_gradients(tensor: Tensor) -> None:
    if tensor.grad is not None:
        tensor.grad.detach_().zero_()


def carlini_wagner() -> Any:
    """Its C&W attack, which keeps best distances in float32, as it allocates them, for float64 images too."""
    base = advertorch().CarliniWagnerL2Attack

    def forward_and_update_delta(self: Any, *state: Any) -> tuple[float, Tensor, Tensor, Tensor]:
        loss, distances, logits, images = base._forward_and_update_delta(self, *state)
        return loss, distances.float(), logits, images

    return type(base.__name__, (base,), {"_forward_and_update_delta": forward_and_update_delta})
