"""Settings that the parser takes and no constructor can look at, refused by their flags before anything is built.

Lightning's Trainer takes numbers that it fails on much later, or never comes to an end with. The parser takes null for every
type, and a number where a dataclass should stand. What a value of the right type may be is said by the class that has it.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_gradood.core import Refusal, check_finite, check_seed, check_whole
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.experiments import Benchmark, Experiment
from lightning_gradood.report import LoggingSettings, ReportSettings
from lightning_gradood.trainer import DEFAULT_CACHE, Trainer

_MOST = 2**31 - 1  # epochs, steps, batches: torch counts some of them in 32 bits
_count, _positive = partial(check_whole, least=0, most=_MOST), partial(check_whole, least=1, most=_MOST)
_computers = partial(check_whole, least=1, most=65536, example=1)


def _length(name: str, value: Any, example: int) -> None:
    """A number of epochs or steps; -1 is Lightning's word for no end."""
    if value != -1:
        check_whole(name, value, 1, _MOST, example)


def _share(name: str, value: Any) -> None:
    """A number of batches, which the parser may give as 2.0, or a share of all."""
    if isinstance(value, float):
        check_finite(name, value, 0, _MOST if value % 1 == 0 else 1, 0.5)
    else:
        _count(name, value, example=10)


def _some(name: str, value: Any) -> None:
    """As a share, but not nothing."""
    _share(name, value)
    if value == 0:
        raise Refusal(
            f"`{name}` should be above 0. Got `{name} = {value}`. Without training use `detect` instead of `fit`."
        )


def _interval(name: str, value: Any) -> None:
    """Batches or a share of an epoch; times are Lightning's to read."""
    if isinstance(value, int | float):
        check_finite(name, value, 0, _MOST, 0.5)


def _time(name: str, value: Any) -> None:
    """Days, hours and so on by name; a text is Lightning's to read."""
    if isinstance(value, dict | Namespace) and sum(dict(value.items()).values()) <= 0:
        raise Refusal(
            f"`{name}` should be longer than nothing. Got `{name} = {dict(value.items())}`. Write e.g. 00:12:00:00."
        )


def _devices(name: str, value: Any) -> None:
    """A number of them; their names and lists of numbers are Lightning's to read."""
    if isinstance(value, int) and value not in (-1, 0):  # of 0 Lightning says itself what it means on this accelerator
        check_whole(name, value, 1, 1024, 1)


def _batches(name: str, value: Any) -> None:
    """Whether a few batches are tried, or how many."""
    if not isinstance(value, bool):
        _count(name, value, example=1)


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "devices": _devices,
    "num_nodes": _computers,
    "fast_dev_run": _batches,
    "max_epochs": partial(_length, example=10),
    "min_epochs": partial(_positive, example=1),
    "max_time": _time,
    "max_steps": partial(_length, example=1000),
    "min_steps": partial(_positive, example=1),
    "limit_train_batches": _some,
    "limit_val_batches": _share,
    "limit_test_batches": _share,
    "limit_predict_batches": _share,
    "overfit_batches": _share,
    "val_check_interval": _interval,
    "check_val_every_n_epoch": partial(_positive, example=1),
    "log_every_n_steps": partial(_count, example=50),
    "accumulate_grad_batches": partial(_positive, example=1),
    "gradient_clip_val": partial(check_finite, least=0, most=float("inf"), example=1.0),
    "reload_dataloaders_every_n_epochs": partial(_count, example=0),
}
_SECTIONS = {
    "trainer": "Remove `trainer` for Lightning's defaults, or set single keys, e.g. --trainer.max_epochs 10",
    "model": "Name a task by its class, e.g. --model ClassificationTask with --model.network",
    "data": "Name images by their class, e.g. --data ImageDataModule with --data.normal photos/normal",
}


@contextmanager
def refused_by_lightning(*more: type[Exception]) -> Iterator[None]:
    """Word what Lightning says of the Trainer's settings, where it is built and where a loop begins.

    Args:
        more: exceptions beside Lightning's own.

    Raises:
        Refusal: in place of them.
    """
    try:
        yield
    except Refusal:
        raise
    except (MisconfigurationException, ValueError) as error:
        if not isinstance(error, (MisconfigurationException, *more)) and "`val_check_interval`" not in str(error):
            raise
        said = " ".join(str(error).split())
        raise Refusal(f"`trainer` should hold settings that work on this machine. Got: {said}") from error


def check_settings(config: Namespace) -> None:
    """Refuse what the parser lets pass and nothing can work with.

    Args:
        config: of a verb, as it was parsed.

    Raises:
        Refusal: a section is no section, a seed, a number or a place cannot be used.
    """
    for section, way_out in _SECTIONS.items():
        if not isinstance(config.get(section), Namespace):
            raise Refusal(f"`{section}` should hold settings. Got `{section} = {config.get(section)!r}`. {way_out}.")
    if (seed := config.get("seed_everything")) is not None and not isinstance(seed, bool):
        check_seed("seed_everything", seed)
    for name, check in _CHECKS.items():
        if (value := config.trainer.get(name)) is not None:
            check(f"trainer.{name}", value)
    for name, example in (("run_dir", "runs/first"), ("cache_dir", "runs/.records")):
        if (value := config.get(name)) is not None and not str(value).strip():
            raise Refusal(f"`{name}` should be the path of a folder. Got `{name} = {value!r}`. Write e.g. {example}.")
    if "cache_dir" in config and config.cache_dir is None:
        raise Refusal(f"`cache_dir` should have a value. Got null. Leave it out for {DEFAULT_CACHE}.")
    _check_arguments("trainer", config.trainer, Trainer)
    for name in ("model", "data"):
        _check_part(name, config[name])
    for name, kind in (("detection", DetectionSettings), ("logging", LoggingSettings), ("report", ReportSettings)):
        if name != "detection" or config.get(name) is not None:
            _check_dataclass(name, config.get(name), kind)
    for name, value in _texts("", config):
        if "\0" in value:
            raise Refusal(f"`{name}` should be text without NUL characters. Got `{name} = {value!r}`. Remove them.")


def check_benchmark(given: dict[str, Any]) -> None:
    """Refuse what the parser of a benchmark file lets pass and nothing can work with.

    Args:
        given: the file's settings, as they were parsed.

    Raises:
        Refusal: null where a value is needed, or a section is no section.
    """
    _check_arguments("", given, Benchmark)
    for name, one in given["experiments"].items():
        _check_dataclass(f"experiments.{name}", one, Experiment)


def _check_part(flag: str, part: Any) -> None:
    """Look at what is built by class path, and at all parts of it."""
    if isinstance(part, list):
        for one in part:
            _check_part(flag, one)
    elif isinstance(part, Namespace) and isinstance(part.get("class_path"), str):
        if part["class_path"].startswith("lightning_gradood."):  # whose annotations say what they take
            _check_arguments(flag, part.get("init_args") or {}, resolve_name(part["class_path"]))
    elif isinstance(part, dict):
        for name, one in part.items():
            _check_part(f"{flag}.{name}", one)


def _check_dataclass(flag: str, given: Any, kind: type) -> None:
    if not isinstance(given, Namespace | dict):
        raise Refusal(f"`{flag}` should hold settings. Got `{flag} = {given!r}`. Leave it out for the defaults.")
    _check_arguments(flag, given, kind)


def _check_arguments(flag: str, given: Namespace | dict[str, Any], kind: Any) -> None:
    """Look at the arguments of a class or function by their annotations."""
    hints = get_type_hints(kind.__init__ if inspect.isclass(kind) else kind)
    for name, parameter in inspect.signature(kind).parameters.items():
        if name not in given or name not in hints:
            continue
        place = f"{flag}.{name}".lstrip(".")
        value, kinds = given[name], _alternatives(hints[name])
        if value is None and not {NoneType, Any} & set(kinds):
            way_out = "Give one" if parameter.default is parameter.empty else "Leave it out for its default"
            raise Refusal(f"`{place}` should have a value. Got null. {way_out}.")
        if value is not None and (settings := next((one for one in kinds if is_dataclass(one)), None)):
            _check_dataclass(place, value, settings)  # type: ignore[arg-type]  # a class, not an instance
        else:
            _check_part(place, value)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _texts(flag: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a configuration, with its flag."""
    if isinstance(value, str):
        yield flag, value
    elif isinstance(value, Namespace | dict):
        for name, inner in (vars(value) if isinstance(value, Namespace) else value).items():
            yield from _texts(flag if name == "init_args" else f"{flag}.{name}".lstrip("."), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(flag, inner)
