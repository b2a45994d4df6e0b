"""Any function of network, images and labels as an attack, by its import path."""

import pkgutil
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_gradood.core import Refusal, check_distance, check_import, check_imported, craft_apart
from lightning_gradood.perturbations.perturbation import Perturbation


class FunctionAttack(Perturbation):
    """A function `(network, images, labels) -> images` of your own.

    It is called with the network in eval mode and frozen, float pixels in [0, 1] and no negative label, and returns
    images of the same shape and dtype in [0, 1].

    Args:
        function: Its import path, such as "my_package.my_module.my_attack".
        eps: If given, results that change a pixel by more are refused.
        one_at_a_time: Call it for each image alone, as functions that draw random numbers need it.
        version: Change it when the function's code changes, so that records made by the old one are not read again.

    Example:
        >>> FunctionAttack("my_package.my_module.my_attack")
        Traceback (most recent call last):
        ...
        lightning_gradood.core.errors.Refusal: `function` should be the import path of a function ...
    """

    passes = 0  # unknown

    def __init__(
        self,
        function: str,
        eps: float | None = None,
        one_at_a_time: bool = False,
        seed: int = 0,
        version: int = 1,
    ) -> None:
        if eps is not None:
            check_distance("eps", eps)
        try:
            check_import(function.replace(":", "."))
            self._function = pkgutil.resolve_name(function)
            check_imported(self._function)
        except Refusal:
            raise
        except (ImportError, AttributeError, ValueError) as error:
            raise _refusal(function, str(error)) from None
        if not callable(self._function):
            raise _refusal(function, f"a {type(self._function).__name__}")
        self.function = function
        self.eps = eps
        self.one_at_a_time = one_at_a_time
        self.seed = seed
        self.version = version

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        def craft(images: Tensor, labels: Tensor) -> Tensor:
            crafted: Tensor = self._function(network, images, labels)
            return crafted

        return craft_apart(craft, images, labels, ids, self.seed, self.one_at_a_time), None


def _refusal(function: str, found: str) -> Refusal:
    return Refusal(
        "`function` should be the import path of a function of network, images and labels. "
        f"Got `function = {function!r}`, {found}. Write e.g. my_package.my_module.my_attack, and install the package or "
        "start where it lies."
    )
