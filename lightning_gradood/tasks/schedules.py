"""Learning-rate schedules of the classifier, and the check of optimizer and schedule before the first step.

A schedule is any class whose first parameters are the optimizer and the total number of steps; it advances after each.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from lightning_gradood.core import ClosedUnitInterval, Refusal


class OneCycle(OneCycleLR):
    """Rise to the optimizer's learning rate and anneal to zero over the optimizer steps of the whole training.

    Args:
        warmup: fraction of the steps spent rising.

    Reference:
        Smith and Topin 2018, "Super-Convergence".
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: ClosedUnitInterval = 0.3) -> None:
        peaks = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=warmup)


class Cosine(CosineAnnealingLR):
    """Anneal the optimizer's learning rate to zero along half a cosine over the steps of the whole training.

    Reference:
        Loshchilov and Hutter 2017, Eq. 5 without restarts.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        super().__init__(optimizer, T_max=total_steps)


def refuse_other_schedule(
    checkpoint: Mapping[str, Any], optimizer: Optimizer, scheduler: LRScheduler | None, path: object
) -> None:
    """Refuse to continue a run with another schedule or peak, which would take over the state of the first."""
    stored = next(iter(checkpoint.get("lr_schedulers", [])), None)
    groups: list[Any] = next((state["param_groups"] for state in checkpoint.get("optimizer_states", [])), [])
    then: dict[str, Any] = {"learning rates": [group.get("initial_lr", group["lr"]) for group in groups]}
    now: dict[str, Any] = {"learning rates": [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]}
    if (stored is None) != (scheduler is None):
        then["schedule"], now["schedule"] = (
            ["none", "one"][stored is not None],
            ["none", "one"][scheduler is not None],
        )
    elif stored is not None and scheduler is not None:
        settings = _schedule_settings(scheduler)
        now |= settings
        then |= {name: stored.get(name, "unknown") for name in settings}
    differing = [name for name in now if then[name] != now[name]]
    if groups and differing:
        raise Refusal(
            "`trainer.max_epochs`, `model.scheduler` and `model.optimizer` should be those of the run that is continued, with "
            "as many steps in an epoch: its learning rate follows one schedule to the end. Got "
            f"{', '.join(f'{name} {then[name]} in `ckpt_path = {path}` and {now[name]} now' for name in differing)}. Continue "
            "with its settings; or begin a new run from its weights, with a schedule of its own, by "
            f"--model.weights {path} in another --run_dir."
        )


def _schedule_settings(scheduler: LRScheduler) -> dict[str, Any]:
    """What a schedule was built with, as far as its state holds it, in contrast to its progress."""
    given = {name for kind in type(scheduler).__mro__ for name in inspect.signature(kind).parameters}
    return {name: value for name, value in scheduler.state_dict().items() if name in given - {"last_epoch"}}


def built(flag: str, factory: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the factory of an optimizer or a schedule makes of its arguments; refuse its `flag` where it fails."""
    try:
        return factory(*arguments)
    except Exception as error:  # each optimizer has words of its own
        raise Refusal(
            f"`{flag}` should have settings that it can be built with. Got {type(error).__name__}: {first_line(error)}. "
            "Correct that setting, or leave it out for its default."
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, without its full stop; its class where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def refuse_infinite(optimizer: Optimizer) -> None:
    """Refuse NaN and infinity as settings of an optimizer, some of which torch lets pass."""
    for name, value in ((name, value) for group in optimizer.param_groups for name, value in group.items()):
        if isinstance(value, float) and not math.isfinite(value):
            flag = f"model.optimizer.{name}"
            raise Refusal(f"`{flag}` should be a finite number. Got `{flag} = {value}`. Write e.g. 0.1.")


def refuse_endless(trainer: Any) -> None:
    """Refuse a training without an end, which a schedule needs to know."""
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise Refusal(
            "`trainer.max_epochs` should be a number of epochs where `scheduler` is given, which needs to know the end. "
            f"Got `trainer.max_epochs = {trainer.max_epochs}`. Write e.g. 40, or `scheduler: null`."
        )
