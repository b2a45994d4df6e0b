"""Any other attack of advertorch, by its import path."""

import inspect
import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_gradood.core import Logits, Refusal, check_distance, craft_apart
from lightning_gradood.perturbations.advertorch_compatibility import advertorch_class
from lightning_gradood.perturbations.goals import TargetChoice, choose_targets
from lightning_gradood.perturbations.perturbation import Perturbation


class AdvertorchAttack(Perturbation):
    """An attack class of advertorch with its own settings; the number of classes is filled in where it wants one.

    Args:
        attack: Import path of the class, such as "advertorch.attacks.MomentumIterativeAttack".
        settings: Plain data that its constructor takes beside the network, except `targeted`. Advertorch's own defaults
            count for the rest; some are impractical, and an early abort (`abort_early`) may look at the whole batch.
        eps: If given, results that change a pixel by more are refused; advertorch's `eps` goes into `settings`.
        targeted: Class to move towards; None moves away from the label.
        one_at_a_time: Craft each image alone, as attacks that draw random numbers need it.

    Example:
        >>> momentum = AdvertorchAttack("advertorch.attacks.MomentumIterativeAttack", {"eps": 8 / 255, "nb_iter": 10})
    """

    passes = 0  # unknown

    def __init__(
        self,
        attack: str,
        settings: dict[str, Any] | None = None,
        eps: float | None = None,
        targeted: TargetChoice | None = None,
        one_at_a_time: bool = False,
        seed: int = 0,
    ) -> None:
        if eps is not None:
            check_distance("eps", eps)
        self._class = advertorch_class(attack)
        self.attack = attack
        self.settings = settings or {}
        self.eps = eps
        self.targeted = targeted
        self.one_at_a_time = one_at_a_time
        self.seed = seed
        self._check_settings()

    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        predict = Logits(network, labels)
        targets = choose_targets(self.targeted, predict, images, labels, self.seed, ids)
        attack = self._class(predict, **self._arguments(predict.classes(images)))
        classes = labels if targets is None else targets
        return craft_apart(attack.perturb, images, classes, ids, self.seed, self.one_at_a_time), targets

    def _arguments(self, classes: int) -> dict[str, Any]:
        known = inspect.signature(self._class).parameters
        # advertorch asserts that `eps` and `eps_iter` are no integers
        arguments = {
            name: float(value) if name in ("eps", "eps_iter") and isinstance(value, int) else value
            for name, value in self.settings.items()
        }
        if "num_classes" in known:
            arguments.setdefault("num_classes", classes)
        return arguments | ({"targeted": self.targeted is not None} if "targeted" in known else {})

    def _check_settings(self) -> None:
        if "targeted" in self.settings:
            raise Refusal(
                "`targeted` should be beside `settings`, as it says which class is meant. "
                f"Got `settings = {self.settings}`. Take it out and give `targeted` as least_likely, next or random."
            )
        try:
            json.dumps(self.settings)
            built = self._class(None, **self._arguments(classes=2))
        except TypeError as error:
            known = [name for name in inspect.signature(self._class).parameters if name not in ("predict", "targeted")]
            raise Refusal(
                f"`settings` should be plain data that {self.attack} takes. Got `settings = {self.settings}`: {error}. "
                f"Choose from {', '.join(known)}."
            ) from None
        if getattr(built, "targeted", False) != (self.targeted is not None):  # JSMA always is, FAB never
            raise Refusal(
                f"`targeted` should be what {self.attack} can be: {'given' if self.targeted is None else 'left out'}. "
                f"Got `targeted = {self.targeted!r}`. The choices are least_likely, next, random, or None."
            )
