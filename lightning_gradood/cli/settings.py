"""What the parser takes and no class refuses: null for every type, a number where settings should stand, seeds of any size.

What a value of the right type may be is said by annotations, and of the Trainer's settings by Lightning.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_gradood.core import Refusal, Seed
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.experiments import Benchmark, Experiment
from lightning_gradood.report import LoggingSettings, ReportSettings
from lightning_gradood.trainer import Trainer

_SECTIONS = {
    "trainer": Trainer,
    "detection": DetectionSettings,
    "logging": LoggingSettings,
    "report": ReportSettings,
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
        Refusal: a section is no section, a value is null where one is needed, or a seed is none.
    """
    for name, kind in _SECTIONS.items():
        if name != "detection" or config.get(name) is not None:
            _check_section(name, config.get(name), kind)
    for name in ("model", "data"):
        _check_part(name, config[name])
    run_dir = config.get("run_dir")
    for name, place in (
        ("run_dir", "new" if run_dir is None else run_dir),
        ("cache_dir", config.get("cache_dir") or ""),
    ):
        if not place.strip():
            raise Refusal(f"`{name}` should be the path of a folder. Got an empty one. Leave it out for its default.")
    seed = config.get("seed_everything")
    try:
        Seed(0 if seed is None or isinstance(seed, bool) else seed)
    except ValueError as error:
        raise Refusal(f"`seed_everything` should be a seed. Got {error}. Write e.g. 0.") from error


def check_benchmark(given: dict[str, Any]) -> None:
    """Refuse what the parser of a benchmark file lets pass and nothing can work with.

    Args:
        given: the file's settings, as they were parsed.

    Raises:
        Refusal: null where a value is needed, or a section is no section.
    """
    _check_arguments("", given, Benchmark)
    for name, one in given["experiments"].items():
        _check_section(f"experiments.{name}", one, Experiment)


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


def _check_section(flag: str, given: Any, kind: type) -> None:
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
            _check_section(place, value, settings)  # type: ignore[arg-type]  # a class, not an instance
        else:
            _check_part(place, value)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
