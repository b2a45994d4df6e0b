"""The parser of experiments: help texts, refusals in one sentence, limits on YAML, and signatures that it cannot read."""

import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings
from jsonargparse.typing import NotEmptyStr, restricted_number_type
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

import lightning_gradood.data as data
import lightning_gradood.detectors as detectors
import lightning_gradood.gradients as gradients
import lightning_gradood.networks as networks
import lightning_gradood.perturbations as perturbations
import lightning_gradood.tasks as tasks
from lightning_gradood.cli.plain import one_sentence
from lightning_gradood.cli.trusted_files import distrusted_in
from lightning_gradood.core import (
    Refusal,
    Seed,
    Unparsable,
    check_yaml,
    experiment_file,
    may_import,
    read_text,
    read_yaml,
)
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.report import LoggingSettings, ReportSettings
from lightning_gradood.trainer import DEFAULT_CACHE

_KNOWN = re.compile(r"known\s+subclasses:\s+([^()]+)\)")
_MANY = 40  # Lightning's callbacks are fewer; there are hundreds of modules
_LINE = "\n" + " " * 24
# perturbations that may stand as attacks, but are not meant as such
_SYNTHETIC = {
    f"lightning_gradood.perturbations.{name}"
    for name, one in vars(perturbations).items()
    if isinstance(one, type) and issubclass(one, perturbations.SyntheticOutlier)
}
_Threads = restricted_number_type("Threads", int, [(">=", 1), ("<=", 1024)])
_CLASS_PATH, _ARGUMENTS = "class_path", "init_args"
_TRAINED = ("max_epochs", "max_steps", "limit_train_batches", "accumulate_grad_batches", "check_val_every_n_epoch")
_HELP = {
    "detection": "Stage two: what is read from the classifier and which detectors are fitted; null stops `fit` before it.",
    "logging": "What W&B keeps of a run beside its numbers.",
    "report": "How the figures of a run are written; a ReportCallback of your own has its own settings.",
    "run_dir": "Folder of the run: a new one below runs/ by default; an earlier one of the same experiment is continued.",
    "cache_dir": "Where records are kept and found again by later runs.",
    "threads": "Threads of each process on a CPU; OMP_NUM_THREADS says the same. By default all processors.",
}
_SECTIONS = ("seed_everything", "trainer", "model", "data", *_HELP)


class BadText(Refusal):
    """A text of the configuration that is parsed no further: it passes a limit, or no converter takes it."""


@contextmanager
def interpolation() -> Iterator[None]:
    """Let files use `${key}` across files and after overrides, `${oc.env:NAME,default}` and `${div:8,255}`."""
    OmegaConf.register_resolver("div", _div, replace=True)
    # without it each file would be resolved alone, and overrides (a sweep's too) would leave stale values behind
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    _limit_texts()
    try:
        yield
    except OmegaConfBaseException as error:
        key = f" at `{error.full_key}`" if error.full_key else ""
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise Refusal(
            f"The configuration should hold only interpolations that can be resolved. Got{key}: {first}. "
            "Define that key or variable, or give a default as in ${oc.env:NAME,default}."
        ) from error


def _div(numerator: int | float, denominator: int | float) -> float:  # OmegaConf warns of an int given for a float
    return numerator / denominator


def _limit_texts() -> None:
    """Look at every text, of files and of the command line, before the parser's loaders expand it."""
    ArgumentParser(parser_mode="omegaconf+").parse_string("{}")  # the first text brings the loader of this mode
    for mode in ("yaml", "omegaconf+"):
        load = get_loader(mode)
        if load.__module__ != __name__:
            set_loader(mode, _limited(load), (yaml.YAMLError,))


def _limited(load: Callable[[str], Any]) -> Callable[[str], Any]:
    def limited(text: str) -> Any:
        """Load a text that passes no limit."""
        try:
            check_yaml(text)
            found = load(text)
            return None if found == "None" else found  # as the parser spells null for a key within a group of settings
        except yaml.YAMLError:  # the parser takes it for plain text, or says what is wrong
            raise
        except Exception as error:  # a limit, or whatever the converter of a tag or a number runs into
            start = " ".join(text[:60].split())
            raise BadText(
                f"A value of the configuration should be short YAML. Got `{start}`: {error}. Put text in quotes."
            ) from error

    return limited


def _shortened(match: re.Match[str]) -> str:
    """Cut lists of known subclasses that would fill screens, such as every `nn.Module`, down to our own."""
    names = match.group(1).replace("\n", " ").replace(",", " ").split()
    ours = [name for name in names if name.startswith("lightning_gradood.")]
    meant = [name for name in ours if name not in _SYNTHETIC] or ours
    if len(names) <= _MANY and len(meant) == len(ours):
        return match.group()
    return f"known subclasses:{_LINE}{f',{_LINE}'.join([*meant, f'and {len(names) - len(meant)} others'])})"


@cache
def _vocabulary() -> dict[str, str]:
    """Names that a configuration may use, classes and functions with their import path."""
    rooms = (data, detectors, gradients, networks, perturbations, tasks)
    public = {name: getattr(room, name) for room in rooms for name in room.__all__}
    parameters = {
        name
        for one in (*public.values(), Trainer, DetectionSettings, LoggingSettings, ReportSettings)
        if callable(one)
        for name in inspect.signature(one).parameters
    }
    plain = dict.fromkeys([*parameters, *_SECTIONS, *loggers.__all__, *callbacks.__all__, *torch.optim.__all__], "")
    return plain | {name: f"{room.__name__}.{name}" for room in rooms for name in room.__all__}


class Parser(LightningArgumentParser):
    """Refuses in one sentence where argparse would print its usage first, and helps briefly."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"prog": "python -m lightning_gradood", **kwargs})

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Called for every kind of help."""
        return _KNOWN.sub(_shortened, super().format_help(*args, **kwargs))

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Read an experiment file, which must be text of a size, depth and expansion that a person writes."""
        try:
            if os.path.isfile(cfg_path):  # a pipe from the shell can be read only once
                check_yaml(read_text(cfg_path))
            return super().parse_path(cfg_path, *args, **kwargs)
        except (Unparsable, UnicodeDecodeError) as error:
            raise BadText(f"`config` should be a YAML file. Got `config = {cfg_path}`, {error}.") from error

    def vocabulary(self) -> Mapping[str, str]:
        """Names among which the nearest to an unknown one is looked for, classes with their import path."""
        return _vocabulary()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the refusal that `main` prints."""
        behind = refusal_behind(ex)
        if isinstance(behind, BadText):
            raise behind
        raise distrusted_in(message) or Refusal(one_sentence(message, self.vocabulary())) from ex


class LogConfig(SaveConfigCallback):
    """Send the resolved configuration to every logger; the run folder has it already."""

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Called by Lightning on rank zero when the first loop starts."""
        config = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        for logger in trainer.loggers:
            logger.log_hyperparams(config)


def add_own_arguments(parser: LightningArgumentParser) -> None:
    """Add the keys that are ours to a verb's parser."""
    defaults = {
        "detection": (DetectionSettings | None, DetectionSettings()),
        "logging": (LoggingSettings, LoggingSettings()),
        "report": (ReportSettings, ReportSettings()),
        "run_dir": (NotEmptyStr | None, None),
        "cache_dir": (NotEmptyStr, DEFAULT_CACHE),
        "threads": (_Threads | None, None),
    }
    for name, (kind, default) in defaults.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=_HELP[name])


def with_shipped_files(words: Sequence[str]) -> list[str]:
    """Replace names of shipped experiment files behind `--config` by their paths; a path that exists stays as it is."""
    found = list(words)
    for place, word in enumerate(words):
        option, sign, value = word.partition("=")
        if option in ("-c", "--config") and sign:
            found[place] = f"{option}={experiment_file(value)}"
        elif option in ("-c", "--config") and place + 1 < len(words):
            found[place + 1] = experiment_file(words[place + 1])
    return found


def experiment_name(words: Sequence[str]) -> str:
    """Name an experiment by its first file; the parsed configuration forgets it where something is interpolated."""
    for option, value in itertools.pairwise(part for word in words for part in word.split("=", 1)):
        if option in ("-c", "--config"):
            return Path(value).stem
    return "run"


def check_settings(parser: ArgumentParser, config: Namespace) -> None:
    """Refuse what the parser of a verb lets pass and nothing can work with: null, no training at all, a negative seed."""
    mlp = [] if config.get("detection") is None else ["detection.mlp"]
    refuse_null(parser, config, ["trainer", "logging", "report", *mlp])
    for name in _TRAINED:
        if config.trainer.get(name) == 0:  # Lightning trains nothing, or divides by it
            raise Refusal(
                f"`trainer.{name}` should be above 0. Got `trainer.{name} = 0`. Without training use `detect`."
            )
    seed = config.seed_everything
    try:
        Seed(0 if seed is None or isinstance(seed, bool) else seed)
    except ValueError as error:
        raise Refusal(f"`seed_everything` should be a seed. Got {error}. Write e.g. 0.") from error


def refuse_null(parser: ArgumentParser, config: Namespace, sections: Sequence[str]) -> None:
    """Refuse null where a value is needed; to the parser it means that none was given. `sections` are keys that hold others."""
    for name in sections:
        if not isinstance(given := config.get(name), Namespace):
            raise Refusal(f"`{name}` should hold settings. Got `{name} = {given}`. Leave it out for the defaults.")
    seeded = config.clone()
    if seeded.get("seed_everything", 0) is None:  # Lightning's word for no seed
        seeded.seed_everything = 0
    set_parsing_settings(unset_sentinel=True)
    try:
        parser.validate(seeded)
    except (TypeError, KeyError) as error:
        parser.error(str(error), error)
    finally:
        set_parsing_settings(unset_sentinel=False)


@contextmanager
def refused_by_lightning(*more: type[Exception]) -> Iterator[None]:
    """Word what Lightning, or another exception among `more`, says of the Trainer's settings."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        if not isinstance(error, (MisconfigurationException, *more)):
            raise
        said = " ".join(str(error).split())
        raise Refusal(f"`trainer` should hold settings that work on this machine. Got: {said}") from error


def refusal_behind(error: BaseException | None) -> Refusal | None:
    """Find the refusal that an exception was raised from, however often the parser wrapped it."""
    while error is not None and not isinstance(error, Refusal):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def loggers_by_name() -> Iterator[None]:
    """Let `--trainer.logger CSVLogger` stand alone: the parser asks for no `save_dir`, which `place_loggers` fills in."""
    before = {kind: kind.__init__.__defaults__ for kind in (loggers.CSVLogger, loggers.TensorBoardLogger)}
    try:
        for kind, values in before.items():
            kind.__init__.__defaults__ = (None, *(values or ()))  # `save_dir` is the last parameter that has no default
        yield
    finally:
        for kind, values in before.items():
            kind.__init__.__defaults__ = values


def prepare_network_function(words: Sequence[str]) -> None:
    """Let a function stand under `--model.network`, with or without annotations, and with any keyword that it takes.

    The parser asks for its annotated return type and for each parameter by name, and `timm.create_model` has neither.
    """
    path, names = None, list[str]()
    for name, value in _network_settings(words):
        if name not in ("", _CLASS_PATH):
            names.append(name)
        elif value != path:
            path, names = value, []  # arguments of another one
    function = _function(path)
    if function is None:
        return
    if not _returns_a_network(function):
        function.__annotations__ = {**getattr(function, "__annotations__", {}), "return": nn.Module}
    signature = inspect.signature(function)
    known = list(signature.parameters.values())
    if known and known[-1].kind == inspect.Parameter.VAR_KEYWORD:
        more = [name for name in dict.fromkeys(names) if name.isidentifier() and name not in signature.parameters]
        keyword = inspect.Parameter.KEYWORD_ONLY
        known[-1:-1] = [inspect.Parameter(name, keyword, default=None, annotation=Any) for name in more]
        function.__signature__ = signature.replace(parameters=known, return_annotation=nn.Module)


def _network_settings(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What is said of the network, in order: its class path under "" or `class_path`, and its arguments by name."""
    for place, word in enumerate(words):
        option, sign, value = word.partition("=")
        given = value if sign else "".join(words[place + 1 : place + 2])
        if option in ("-c", "--config"):
            yield from _in_file(given)
        parts = [part for part in option.removeprefix("--").split(".") if part != _ARGUMENTS]
        if option.startswith("--") and parts[:2] == ["model", "network"]:
            yield ".".join(parts[2:3]), given


def _in_file(path: str) -> Iterator[tuple[str, Any]]:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # the parser says what is wrong with it
        model = read_yaml(path)["model"]
        network = model.get(_ARGUMENTS, model)["network"]
        if isinstance(network, str):
            yield "", network
        else:
            yield _CLASS_PATH, network[_CLASS_PATH]
            yield from (network.get(_ARGUMENTS) or {}).items()


def _function(path: Any) -> Any:
    room, _, name = str(path).rpartition(".")
    if may_import(str(path)):
        with suppress(Exception):  # importing runs a user's module: the parser imports it again, and says what is wrong
            found = getattr(import_module(room), name)
            return found if inspect.isfunction(found) else None
    return None


def _returns_a_network(function: Any) -> bool:
    with suppress(Exception):  # a forward reference that cannot be resolved
        kind = inspect.get_annotations(function, eval_str=True).get("return")
        return inspect.isclass(kind) and issubclass(kind, nn.Module)
    return False
