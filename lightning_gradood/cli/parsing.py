"""The parser of experiments: its help texts, its error messages in one sentence, limits on what it reads as YAML."""

import inspect
import itertools
import os
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader
from lightning.pytorch import Trainer, callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

import lightning_gradood.data as data
import lightning_gradood.detectors as detectors
import lightning_gradood.gradients as gradients
import lightning_gradood.networks as networks
import lightning_gradood.perturbations as perturbations
import lightning_gradood.tasks as tasks
from lightning_gradood.cli.sentences import one_sentence
from lightning_gradood.cli.trust import distrusted_in
from lightning_gradood.cli.verbs import ALONE, VERBS
from lightning_gradood.core import Refusal, Unparsable, check_yaml, experiment_file, read_text
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


class BadText(Refusal):
    """A text of the configuration that is parsed no further: it passes a limit, or no converter takes it."""


def limit_texts() -> None:
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
            return load(text)
        except yaml.YAMLError:  # the parser takes it for plain text, or says what is wrong
            raise
        except Exception as error:  # a limit, or whatever the converter of a tag or a number runs into
            start = " ".join(text[:60].split())
            raise BadText(
                f"A value of the configuration should be short YAML. Got `{start}`: {error}. Put text in quotes."
            ) from error

    return limited


def shortened(text: str) -> str:
    """Cut lists of known subclasses that would fill screens, such as every `nn.Module`, down to our own."""
    return _KNOWN.sub(_cut, text)


def _cut(match: re.Match[str]) -> str:
    names = match.group(1).replace("\n", " ").replace(",", " ").split()
    synthetic = [name for name in names if name in _SYNTHETIC]
    if len(names) <= _MANY and synthetic in ([], names):
        return match.group()
    ours = [name for name in names if name.startswith("lightning_gradood.") and name not in synthetic]
    shown = ours or synthetic
    return f"known subclasses:{_LINE}{f',{_LINE}'.join([*shown, f'and {len(names) - len(shown)} others'])})"


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


_SECTIONS = (
    *("seed_everything", "trainer", "model", "data", "detection", "logging", "report"),
    *("run_dir", "cache_dir", "threads"),
)
_HELP = {
    "detection": "Stage two: what is read from the classifier and which detectors are fitted; null stops `fit` before it.",
    "logging": "What W&B keeps of a run beside its numbers.",
    "report": "How the figures of a run are written; a ReportCallback of your own has its own settings.",
    "run_dir": "Folder of the run: a new one below runs/ by default; an earlier one of the same experiment is continued.",
    "cache_dir": "Where records are kept and found again by later runs.",
    "threads": "Threads of each process on a CPU; OMP_NUM_THREADS says the same. By default all processors.",
}


class Parser(LightningArgumentParser):
    """Refuses in one sentence where argparse would print its usage first, and helps briefly."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"prog": "python -m lightning_gradood", **kwargs})

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """List verbs with their whole description rather than a line of Lightning's docstrings."""
        action = super().add_subcommands(*args, **kwargs)
        add = action.add_subcommand
        action.add_subcommand = lambda name, parser, **_: add(name, parser, help=parser.description)  # type: ignore[method-assign]
        for verb in ALONE:  # listed here, parsed elsewhere
            add(verb, Parser(description=VERBS[verb]), help=VERBS[verb])
        return action

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Called for every kind of help."""
        return shortened(super().format_help(*args, **kwargs))

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Read an experiment file, which must be text of a size, depth and expansion that a person writes."""
        try:
            if os.path.isfile(cfg_path):  # a pipe from the shell can be read only once
                check_yaml(read_text(cfg_path))
            return super().parse_path(cfg_path, *args, **kwargs)
        except (Unparsable, UnicodeDecodeError) as error:
            raise BadText(f"`config` should be a YAML file. Got `config = {cfg_path}`, {error}.") from error

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse words; what the parser cannot walk through is refused."""
        try:
            return super().parse_args(*args, **kwargs)
        except RecursionError as error:
            raise BadText("The configuration should be nested as experiment files are. Got a deeper one.") from error

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
    settings = DetectionSettings()
    parser.add_argument("--detection", type=DetectionSettings | None, default=settings, help=_HELP["detection"])
    parser.add_argument("--logging", type=LoggingSettings, default=LoggingSettings(), help=_HELP["logging"])
    parser.add_argument("--report", type=ReportSettings, default=ReportSettings(), help=_HELP["report"])
    parser.add_argument("--run_dir", type=str | None, default=None, help=_HELP["run_dir"])
    parser.add_argument("--cache_dir", type=str, default=DEFAULT_CACHE, help=_HELP["cache_dir"])
    parser.add_argument("--threads", type=int | None, default=None, help=_HELP["threads"])


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


def refusal_behind(error: BaseException | None) -> Refusal | None:
    """Find the refusal that an exception was raised from, however often the parser wrapped it."""
    while error is not None and not isinstance(error, Refusal):
        error = error.__cause__ or error.__context__
    return error


def unbuildable(error: BaseException) -> Refusal:
    """Word what a constructor raised, its own or a function's that was named by class path."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    if (refusal := distrusted_in(first)) is not None:
        return refusal
    return Refusal(
        "`model`, `data` and `trainer` should be such that they can be built. "
        f"Got {type(error).__name__}: {first}{place}. Correct the arguments of what that names."
    )
