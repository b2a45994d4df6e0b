"""Attacks by import path: any class of advertorch, and any function of network, images and labels."""

import inspect
import json
import pkgutil
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.core import (
    FinitePositive,
    Refusal,
    check_import,
    encode,
    generator_states,
    named_seed,
    restore_generators,
)
from lightning_gradood.perturbations.advertorch_parts import advertorch
from lightning_gradood.perturbations.gradient_attacks import TargetChoice, choose_goal
from lightning_gradood.perturbations.perturbation import Logits, Made, Perturbation, check_result


def _found(path: str, parameter: str, what: str, is_one: Callable[[Any], bool]) -> Any:
    """What an import path names; a Refusal if it is not trusted, is not there, or is something else."""
    check_import(path.replace(":", "."))
    try:
        found: Any = pkgutil.resolve_name(path)
        reason = f"a {type(found).__name__}"
    except (ImportError, AttributeError, ValueError) as error:
        found, reason = None, str(error)
    if found is None or not is_one(found):
        raise Refusal(
            f"`{parameter}` should be the import path of {what}. Got `{parameter} = {path!r}`, {reason}. "
            "Correct it, and install the package or start where it lies."
        )
    made = found if inspect.isroutine(found) or inspect.isclass(found) else type(found)
    check_import(f"{made.__module__}.{made.__qualname__}")  # where it is defined
    return found


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

    Examples:
        >>> momentum = AdvertorchAttack("advertorch.attacks.MomentumIterativeAttack", {"eps": 8 / 255, "nb_iter": 10})
    """

    attack: str
    settings: dict[str, Any] = field(default_factory=dict)
    eps: FinitePositive | None = None
    targeted: TargetChoice | None = None
    one_at_a_time: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            json.dumps(self.settings)
            built = self._built(None, classes=2)
        except TypeError as error:
            raise Refusal(
                f"`settings` should be plain data that {self.attack} takes, without `targeted`, which stands beside it. "
                f"Got `settings = {self.settings}`: {error}. Take what its constructor takes."
            ) from None
        if getattr(built, "targeted", False) != (self.targeted is not None):  # JSMA always is, FAB never
            raise Refusal(
                f"`targeted` should be what {self.attack} can be: {'given' if self.targeted is None else 'left out'}. "
                f"Got `targeted = {self.targeted!r}`. The choices are least_likely, next, random, or None."
            )

    def _craft(self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Made:
        predict = Logits(network)
        goal = choose_goal(self.targeted, predict, images, labels, self.seed, ids)
        attack = self._built(predict, predict.classes(images))
        crafted = craft_apart(attack.perturb, images, goal.classes, ids, self.seed, self.one_at_a_time)
        return crafted, goal.classes if goal.targeted else None

    def _built(self, predict: Logits | None, classes: int) -> Any:
        base = advertorch().Attack
        is_attack = lambda found: inspect.isclass(found) and issubclass(found, base)  # noqa: E731
        kind = _found(self.attack, "attack", "an attack class of advertorch", is_attack)
        known, settings = inspect.signature(kind).parameters, dict(self.settings)
        for name in ("eps", "eps_iter"):  # advertorch asserts that these are no integers
            if isinstance(settings.get(name), int):
                settings[name] = float(settings[name])
        if "num_classes" in known:
            settings.setdefault("num_classes", classes)
        return kind(predict, **settings, **({"targeted": self.targeted is not None} if "targeted" in known else {}))


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
    """

    function: str
    eps: FinitePositive | None = None
    one_at_a_time: bool = False
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        self._function()  # refused here, before anything is trained

    def _function(self) -> Any:
        return _found(self.function, "function", "a function of network, images and labels", callable)

    def _craft(self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Made:
        craft = partial(self._function(), network)
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

    def alone(row: int, name: str) -> Tensor:
        stream = named_seed(seed, name)
        torch.manual_seed(stream)
        np.random.seed(stream % 2**32)
        random.seed(stream)
        crafted = craft(images[[row]], labels[[row]])
        check_result(crafted, images[[row]], None, "The attack")  # before rows of different shapes are joined
        return crafted

    before = generator_states()
    try:
        if one_at_a_time:
            return torch.cat([alone(row, name) for row, name in enumerate(ids)])
        crafted = craft(images, labels)
        if encode(before) != encode(generator_states()):
            raise Refusal(
                "`one_at_a_time` should be true for an attack that draws random numbers, or they would depend on the "
                "images beside it. Got `one_at_a_time = False`. Set it, or switch the attack's randomness off."
            )
        return crafted
    finally:
        restore_generators(before)
