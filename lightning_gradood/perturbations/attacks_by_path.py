"""Attacks by import path: any class of advertorch, and any function of network, images and labels."""

import inspect
import json
import pkgutil
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import (
    FinitePositive,
    Refusal,
    check_import,
    check_imported,
    generator_states,
    named_seed,
    restore_generators,
)
from lightning_gradood.perturbations.advertorch_parts import advertorch_class
from lightning_gradood.perturbations.gradient_attacks import TargetChoice, choose_goal
from lightning_gradood.perturbations.perturbation import Logits, Perturbation, check_result


@dataclass(frozen=True)
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

    attack: str
    settings: dict[str, Any] = field(default_factory=dict)
    eps: FinitePositive | None = None
    targeted: TargetChoice | None = None
    one_at_a_time: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        kind = advertorch_class(self.attack)
        if "targeted" in self.settings:
            raise Refusal(
                "`targeted` should be beside `settings`, as it says which class is meant. "
                f"Got `settings = {self.settings}`. Take it out and give `targeted` as least_likely, next or random."
            )
        try:
            json.dumps(self.settings)
            built = kind(None, **self._arguments(kind, classes=2))
        except TypeError as error:
            known = [name for name in inspect.signature(kind).parameters if name not in ("predict", "targeted")]
            raise Refusal(
                f"`settings` should be plain data that {self.attack} takes. Got `settings = {self.settings}`: {error}. "
                f"Choose from {', '.join(known)}."
            ) from None
        if getattr(built, "targeted", False) != (self.targeted is not None):  # JSMA always is, FAB never
            raise Refusal(
                f"`targeted` should be what {self.attack} can be: {'given' if self.targeted is None else 'left out'}. "
                f"Got `targeted = {self.targeted!r}`. The choices are least_likely, next, random, or None."
            )

    @override
    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        predict, kind = Logits(network, labels), advertorch_class(self.attack)
        goal = choose_goal(self.targeted, predict, images, labels, self.seed, ids)
        attack = kind(predict, **self._arguments(kind, predict.classes(images)))
        classes = labels if goal.targets is None else goal.targets
        crafted = craft_apart(attack.perturb, images, classes, ids, self.seed, self.one_at_a_time)
        return crafted, goal.targets

    def _arguments(self, kind: type[Any], classes: int) -> dict[str, Any]:
        known = inspect.signature(kind).parameters
        # advertorch asserts that `eps` and `eps_iter` are no integers
        arguments = {
            name: float(value) if name in ("eps", "eps_iter") and isinstance(value, int) else value
            for name, value in self.settings.items()
        }
        if "num_classes" in known:
            arguments.setdefault("num_classes", classes)
        return arguments | ({"targeted": self.targeted is not None} if "targeted" in known else {})


@dataclass(frozen=True)
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

    function: str
    eps: FinitePositive | None = None
    one_at_a_time: bool = False
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        self._found()  # refused here, before anything is trained

    def _found(self) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
        try:
            check_import(self.function.replace(":", "."))
            found: Callable[[nn.Module, Tensor, Tensor], Tensor] = pkgutil.resolve_name(self.function)
            check_imported(found)
            if callable(found):
                return found
            got = f"a {type(found).__name__}"
        except Refusal:
            raise
        except (ImportError, AttributeError, ValueError) as error:
            got = str(error)
        raise Refusal(
            "`function` should be the import path of a function of network, images and labels. "
            f"Got `function = {self.function!r}`, {got}. Write e.g. my_package.my_module.my_attack, and install the "
            "package or start where it lies."
        )

    @override
    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        function = self._found()

        def craft(images: Tensor, labels: Tensor) -> Tensor:
            return function(network, images, labels)

        return craft_apart(craft, images, labels, ids, self.seed, self.one_at_a_time), None


def craft_apart(
    craft: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    ids: Sequence[str],
    seed: int,
    one_at_a_time: bool,
) -> Tensor:
    """Call other libraries' code, which uses global generators, so that these are restored and images stay independent.

    `craft` maps images [n, ...] and labels int64 [n] to images. With `one_at_a_time` each image is crafted alone,
    seeded by `seed` and its id; otherwise random draws are refused, as they would depend on the batch.
    """
    before = generator_states()
    try:
        if one_at_a_time:
            return torch.cat([_alone(craft, images[[row]], labels[[row]], seed, one) for row, one in enumerate(ids)])
        crafted = craft(images, labels)
        pairs = zip(_flat(before), _flat(generator_states()), strict=True)
        if not all(torch.equal(old, new) if isinstance(old, Tensor) else old == new for old, new in pairs):
            raise Refusal(
                "`one_at_a_time` should be true for an attack that draws random numbers, or they would depend on the "
                "images beside it. Got `one_at_a_time = False`. Set it, or switch the attack's randomness off."
            )
        return crafted
    finally:
        restore_generators(before)


def _flat(states: dict[str, Any]) -> list[Any]:
    return [states["torch"], states["cuda"], *states["numpy"], states["python"]]


def _alone(craft: Callable[[Tensor, Tensor], Tensor], image: Tensor, label: Tensor, seed: int, image_id: str) -> Tensor:
    stream = named_seed(seed, image_id)
    torch.manual_seed(stream)
    np.random.seed(stream % 2**32)
    random.seed(stream)
    crafted = craft(image, label)
    check_result(crafted, image, None, "the attack")  # before rows of different shapes are joined
    return crafted
