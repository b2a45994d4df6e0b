"""How the command line is parsed, and what becomes of the parsed configuration."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from lightning_gradood.cli.help import VERBS, shortened
from lightning_gradood.cli.sentences import one_sentence
from lightning_gradood.detectors import DetectionSettings
from lightning_gradood.errors import Refusal
from lightning_gradood.trainer import DEFAULT_CACHE

_HELP = {
    "detection": "Stage two: what is read from the classifier and which detectors are fitted; null stops `fit` before it.",
    "run_dir": "Folder of the run: a new one below runs/ by default; an earlier one of the same experiment is continued.",
    "cache_dir": "Where records are kept and found again by later runs.",
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
        add(
            "benchmark", Parser(description=VERBS["benchmark"]), help=VERBS["benchmark"]
        )  # listed here, parsed elsewhere
        return action

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Called for every kind of help."""
        return shortened(super().format_help(*args, **kwargs))

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Read an experiment file, which must be text."""
        try:
            return super().parse_path(cfg_path, *args, **kwargs)
        except UnicodeDecodeError as error:
            raise Refusal(f"`config` should be a YAML file. Got `config = {cfg_path}`, which is no text.") from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the refusal that `main` prints."""
        raise Refusal(one_sentence(message)) from ex


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
    parser.add_argument("--run_dir", type=str | None, default=None, help=_HELP["run_dir"])
    parser.add_argument("--cache_dir", type=str, default=DEFAULT_CACHE, help=_HELP["cache_dir"])


def experiment_name(words: Sequence[str]) -> str:
    """Name an experiment by its first file; the parsed configuration forgets it where something is interpolated.

    Args:
        words: of the command line.
    """
    for option, value in itertools.pairwise(part for word in words for part in word.split("=", 1)):
        if option in ("-c", "--config"):
            return Path(value).stem
    return "run"


def refusal_behind(error: BaseException | None) -> Refusal | None:
    """Find the refusal that an exception was raised from, however often the parser wrapped it."""
    while error is not None and not isinstance(error, Refusal):
        error = error.__cause__ or error.__context__
    return error
