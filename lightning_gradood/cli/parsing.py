"""The parser of experiments: help texts, refusals in one sentence, limits on YAML, `--trust`."""

import argparse
import inspect
import itertools
import os
import pkgutil
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings
from jsonargparse._common import parsing_settings  # there is no public way back from a policy on imports
from jsonargparse.typing import NotEmptyStr, restricted_number_type
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torchvision.transforms import v2

from lightning_gradood import data, detectors, gradients, networks, perturbations, tasks
from lightning_gradood.cli.plain import one_sentence, own_keys
from lightning_gradood.cli.signatures import ARGUMENTS, CLASS_PATH, CONFIG
from lightning_gradood.core import (
    Refusal,
    Seed,
    Unparsable,
    check_import,
    check_yaml,
    class_path,
    experiment_file,
    first_line,
    read_yaml,
)
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.report import LoggingSettings, ReportSettings
from lightning_gradood.trainer import DEFAULT_CACHE

OWN = (
    *(f"lightning_gradood.{room}" for room in ("data", "detectors", "evaluation", "gradients", "networks")),
    *(f"lightning_gradood.{room}" for room in ("perturbations", "probes", "report", "tasks", "trainer")),
    *(f"lightning.pytorch.{part}" for part in ("callbacks", "loggers", "profilers")),
    *("torch.nn", "torch.optim", "torchvision.models", "torchvision.transforms", "advertorch.attacks"),
    # data sets one by one: some of torchvision's unpickle files of the folder that they are given
    *("torchvision.datasets.CIFAR10", "torchvision.datasets.CIFAR100", "torchvision.datasets.cifar"),
    *("torchvision.datasets.SVHN", "torchvision.datasets.svhn", "pytorch_ood.dataset.img", "pytorch_ood.detector"),
    *("torch.dtype", *(f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype))),
)
"""What `--trust own` lets an experiment file name: what the shipped files are made of."""

_DENIED = re.compile(r"Importing '([^']+)' is not allowed, denied by")
_KNOWN = re.compile(r"known\s+subclasses:\s+([^()]+)\)")
_MANY = 40  # Lightning's callbacks are fewer; there are hundreds of modules
_LINE = "\n" + " " * 24
_OF_SETTINGS = ("--trainer", "--model", "--data", "--detection", "--report", "--logging")
_PYTORCH_OOD = "pytorch_ood.detector."
_HUGGING_FACE = "lightning_gradood.networks.hugging_face"
_FROM_PRETRAINED = re.compile(r"transformers\.\w+\.from_pretrained")
_TRAINED = ("max_epochs", "max_steps", "limit_train_batches", "accumulate_grad_batches", "check_val_every_n_epoch")
_ROOMS = (data, detectors, gradients, networks, perturbations, tasks)
KEYS = {  # ours: type, default and help
    "detection": (DetectionSettings | None, DetectionSettings(),
                  "Stage two: what is read from the classifier and which detectors are fitted; null stops `fit` before it."),
    "logging": (LoggingSettings, LoggingSettings(), "What W&B keeps of a run beside its numbers."),
    "report": (ReportSettings, ReportSettings(),
               "How a run is reported: its printed table and figures; a ReportCallback of your own has its own settings."),
    "run_dir": (NotEmptyStr | None, None,
                "Folder of the run: a new one below runs/ by default; an earlier one of the same experiment is continued."),
    "cache_dir": (NotEmptyStr, DEFAULT_CACHE, "Where records are kept and found again by later runs."),
    "threads": (restricted_number_type("Threads", int, [(">=", 1), ("<=", 1024)]) | None, None,
                "Threads of each process on a CPU; OMP_NUM_THREADS says the same. By default all processors."),
}  # fmt: skip


class BadText(Refusal):
    """A text of the configuration that is parsed no further: it passes a limit, or no converter takes it."""


@contextmanager
def interpolation() -> Iterator[None]:
    """Let files use `${key}` across files and after overrides, `${oc.env:NAME,default}` and `${div:8,255}`."""
    OmegaConf.register_resolver("div", lambda above, below: above / below, replace=True)
    # without it each file would be resolved alone, and overrides (a sweep's too) would leave stale values behind
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    ArgumentParser(parser_mode="omegaconf+").parse_string("{}")  # the first text brings the loader of this mode
    for mode in ("yaml", "omegaconf+"):
        load = get_loader(mode)
        if load.__module__ != __name__:
            set_loader(mode, _limited(load), (yaml.YAMLError,))
    try:
        yield
    except OmegaConfBaseException as error:
        key = f" at `{error.full_key}`" if error.full_key else ""
        raise Refusal(
            f"The configuration should hold only interpolations that can be resolved. Got{key}: {first_line(error)}. "
            "Define that key or variable, or give a default as in ${oc.env:NAME,default}."
        ) from error


def _limited(load: Callable[[str], Any]) -> Callable[[str], Any]:
    """Look at every text, of files and of the command line, before one of the parser's loaders expands it."""

    def limited(text: str) -> Any:
        try:
            check_yaml(text)
            found = load(text)
            return _adapted(found)
        except yaml.YAMLError:  # the parser takes it for plain text, or says what is wrong
            raise
        except Exception as error:  # a limit, or whatever the converter of a tag or a number runs into
            start = " ".join(text[:60].split())
            raise BadText(
                f"A value of the configuration should be short YAML. Got `{start}`: {error}. Put text in quotes."
            ) from error

    return limited


def _adapted(value: Any) -> Any:
    """Put detectors of pytorch-ood, named by their own class paths, into `PytorchOOD`, and `hf:NAME` into `hugging_face`."""
    if value == "None":  # as Python, and an agent of W&B, spell null
        return None
    if isinstance(value, str):
        if _FROM_PRETRAINED.fullmatch(value):
            return _HUGGING_FACE
        named = {CLASS_PATH: _HUGGING_FACE, ARGUMENTS: {"pretrained_model_name_or_path": value[3:]}}
        return named if value.startswith("hf:") else value
    if isinstance(value, list):
        return [_adapted({CLASS_PATH: one} if str(one).startswith(_PYTORCH_OOD) else one) for one in value]
    if not isinstance(value, dict):
        return value
    if str(path := value.get(CLASS_PATH)).startswith(_PYTORCH_OOD):
        given = {"detector": path, "settings": value.get(ARGUMENTS) or {}}
        return {CLASS_PATH: class_path(detectors.PytorchOOD), ARGUMENTS: given}
    return {name: _adapted(one) for name, one in value.items()}


def without_trust(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Take `--trust` out of a command line, as it is no key of an experiment file; return the other words and the packages named.

    >>> without_trust(["fit", "--trust", "my_package", "--config", "digits", "--trust=own"])
    (['fit', '--config', 'digits'], ['my_package', 'own'])
    """
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--trust", action="append", nargs="?", const="", default=[])
    given, rest = reader.parse_known_args(list(words))
    for value in given.trust:
        if not all(part.isidentifier() for part in value.split(".")) or value.partition(".")[0] == "jsonargparse":
            raise Refusal(
                f"`--trust` should name a package or module whose classes an experiment file may build. Got `--trust {value}`. "
                "Write e.g. --trust my_package, or --trust own for those of lightning_gradood, torch and torchvision alone."
            )
    return rest, given.trust or None


@contextmanager
def trusting(packages: Sequence[str] | None) -> Iterator[None]:
    """Let the parser import class paths of `OWN` and of these packages only; None lets it import whatever is named.

    An experiment file is code: whatever class path it names is imported and called. The parser's policy decides, as it
    alone knows when text has become a class path; our own imports ask it by `core.check_import`.
    """
    before = dict(parsing_settings)
    if packages is not None:
        allowed = [*OWN, *(name for name in packages if name != "own")]
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
    try:
        yield
    finally:
        parsing_settings.update(before)


def _shortened(match: re.Match[str]) -> str:
    """Cut lists of known subclasses that would fill screens, such as every `nn.Module`, down to our own."""
    names = match.group(1).replace("\n", " ").replace(",", " ").split()
    if len(names) <= _MANY:
        return match.group()
    ours = [name for name in names if name.startswith("lightning_gradood.")]
    return f"known subclasses:{_LINE}{f',{_LINE}'.join([*ours, f'and {len(names) - len(ours)} others'])})"


@cache
def classes() -> dict[str, str]:
    """Classes and functions that a configuration may name, each with its import path."""
    theirs = (loggers, callbacks, torch.optim, v2)
    public = {name: f"{room.__name__}.{name}" for room in theirs for name in getattr(room, "__all__", vars(room))}
    return public | {name: f"{room.__name__}.{name}" for room in _ROOMS for name in room.__all__}


class Parser(LightningArgumentParser):
    """Refuses in one sentence where argparse would print its usage first, and helps briefly."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"prog": "python -m lightning_gradood", "allow_abbrev": False, **kwargs})

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Called for every argument of Lightning's own."""
        if args[0] == "--seed_everything":
            kwargs["type"] |= None  # an agent of W&B passes null, which a file may give
        return super().add_argument(*args, **kwargs)

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Called for every kind of help."""
        return _KNOWN.sub(_shortened, super().format_help(*args, **kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the refusal that `main` prints."""
        behind = refusal_behind(ex)
        if isinstance(behind, BadText):
            raise behind
        refuse_denied(message)
        raise Refusal(one_sentence(message, own_keys(self), classes=classes())) from ex


def refuse_denied(message: str) -> None:
    """Refuse a class path that is not trusted, if that is what the parser's message says."""
    if match := _DENIED.search(message):
        check_import(match[1])


def refusal_behind(error: BaseException | None) -> Refusal | None:
    """Find the refusal that an exception was raised from, however often the parser wrapped it; one of a missing file too."""
    while error is not None and not isinstance(error, Refusal | OSError):
        error = error.__cause__ or error.__context__
    if isinstance(error, OSError):
        return Refusal(
            "Files that an experiment names should exist, and downloads succeed. Got "
            f"{type(error).__name__}: {' '.join(str(error).split())}. Correct the name, or put the file in its place."
        )
    return error


class LogConfig(SaveConfigCallback):
    """Send the resolved configuration to every logger; the run folder has it already."""

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Called by Lightning on rank zero when the first loop starts."""
        config = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        for logger in trainer.loggers:
            logger.log_hyperparams(config)


def with_shipped_files(words: Sequence[str]) -> list[str]:
    """Replace names of shipped experiment files behind `--config` by their paths, and `from_pretrained` by `hugging_face`.

    Files of settings that are no YAML are refused.
    """
    glued = ("-c=", "--config=")
    words = [_FROM_PRETRAINED.sub(_HUGGING_FACE, word) for word in words]
    found = [part for word in words for part in (word.split("=", 1) if word.startswith(glued) else [word])]
    found = [experiment_file(word) if before in CONFIG else word for before, word in itertools.pairwise(["", *found])]
    for before, word in itertools.pairwise(["", *found]):
        flag, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
        named = flag in CONFIG or (flag in _OF_SETTINGS and value.endswith((".yaml", ".yml")))
        if named and os.path.isfile(value):  # a pipe from the shell can be read only once
            key = "config" if flag in CONFIG else flag[2:]
            try:
                wrong = "" if isinstance(read_yaml(value), dict) else "in which no keys are"
            except (Unparsable, OSError) as error:
                wrong = str(error)
            if wrong:
                raise Refusal(f"`{key}` should be a YAML file. Got `{key} = {value}`, {wrong}.")
    return found


def experiment_name(words: Sequence[str]) -> str:
    """Name an experiment by its first file; the parsed configuration forgets it where something is interpolated."""
    return next((Path(value).stem for option, value in itertools.pairwise(words) if option in CONFIG), "run")


def check_settings(parser: ArgumentParser, config: Namespace) -> None:
    """Refuse what the parser of a verb lets pass and nothing can work with: null, no training at all, a negative seed."""
    sections = ["trainer", "logging", "report", *([] if config.get("detection") is None else ["detection.mlp"])]
    for part in ("model", "data"):
        known = inspect.signature(pkgutil.resolve_name(config[part].class_path)).parameters
        given = config[part].init_args.as_dict()
        sections += [f"{part}.{name}" for name in known if is_dataclass(known[name].default) and not given.get(name, 1)]
    refuse_null(parser, config, sections)
    for name, value in config.items():
        if value in ("None", "null"):  # of a setting that takes any text
            name = name.replace(f".{ARGUMENTS}", "")
            raise Refusal(f"`{name}` should have a value. Got null. Leave it out for the default.")
    for name in _TRAINED:
        if config.trainer.get(name) == 0:  # Lightning trains nothing, or divides by it
            raise Refusal(
                f"`trainer.{name}` should be above 0. Got `trainer.{name} = 0`. Without training use `detect`."
            )
    try:
        Seed(int(config.seed_everything or 0))
    except ValueError as error:
        seed = config.seed_everything
        raise Refusal(f"`seed_everything` should be a number of at least 0 and below 2**32. Got {seed}.") from error


def refuse_null(parser: ArgumentParser, config: Namespace, sections: Sequence[str]) -> None:
    """Refuse null where a value is needed; to the parser it means that none was given. `sections` are keys that hold others."""
    for name in sections:
        if not isinstance(given := config.get(name), Namespace):
            raise Refusal(f"`{name}` should hold settings. Got `{name} = {given}`. Leave it out for the defaults.")
    set_parsing_settings(unset_sentinel=True)
    try:
        parser.validate(config)
    except (TypeError, KeyError) as error:
        parser.error(str(error), error)
    finally:
        set_parsing_settings(unset_sentinel=False)


@contextmanager
def refused_by_lightning(*more: type[Exception]) -> Iterator[None]:
    """Word what Lightning itself, or another exception among `more`, says of the Trainer's settings."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        theirs = isinstance(error, ValueError) and str(frame.f_globals["__name__"]).startswith("lightning.")
        if not (theirs or isinstance(error, (MisconfigurationException, *more))):
            raise
        said = " ".join(str(error).split())
        raise Refusal(f"`trainer` should hold settings that work on this machine. Got: {said}") from error
