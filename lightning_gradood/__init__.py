"""Detect adversarial and out-of-distribution images from the gradients of a trained classifier.

Rooms, lowest first: `core`; `gradients`, `networks`, `perturbations`, `metrics`, `records`; `probes`, `data`, `tasks`;
`detectors`; `evaluation`, `extraction`, `guard`; `report`; `trainer`; `fitting`; `cli`. Each room's docstring says what it
is for. What most people want is imported from here, and nothing is loaded before:

>>> from lightning_gradood import Guard, fit_guard, squared_gradient_norms
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_gradood.fitting import fit_guard
    from lightning_gradood.gradients import squared_gradient_norms
    from lightning_gradood.guard import Guard

__version__ = "0.1.0"
__all__ = ["Guard", "fit_guard", "squared_gradient_norms"]

_ROOMS = {"Guard": "guard", "fit_guard": "fitting", "squared_gradient_norms": "gradients"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
