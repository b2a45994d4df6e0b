"""The parser of the command line: its help texts, and its error messages in one sentence with the nearest spelling."""

import difflib
import inspect
import itertools
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import Trainer, callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

import lightning_gradood.attacks as attacks
import lightning_gradood.corruptions as corruptions
import lightning_gradood.data as data
import lightning_gradood.detectors as detectors
import lightning_gradood.gradients as gradients
import lightning_gradood.networks as networks
import lightning_gradood.tasks as tasks
from lightning_gradood.cli.limits import BadText
from lightning_gradood.cli.trust import distrusted_in
from lightning_gradood.cli.verbs import ALONE, VERBS
from lightning_gradood.core import Refusal, Unparsable, check_yaml, experiment_file, read_text
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.report import LoggingSettings, ReportSettings
from lightning_gradood.trainer import DEFAULT_CACHE

_KNOWN = re.compile(r"known\s+subclasses:\s+([^()]+)\)")
_MANY = 40  # Lightning's callbacks are fewer; there are hundreds of modules
_LINE = "\n" + " " * 24
_SYNTHETIC = "lightning_gradood.synthetic."  # perturbations that may stand as attacks, but are not meant as such


def shortened(text: str) -> str:
    """Cut lists of known subclasses that would fill screens, such as every `nn.Module`, down to our own.

    Args:
        text: a parser's formatted help.
    """
    return _KNOWN.sub(_cut, text)


def _cut(match: re.Match[str]) -> str:
    names = match.group(1).replace("\n", " ").replace(",", " ").split()
    synthetic = [name for name in names if name.startswith(_SYNTHETIC)]
    if len(names) <= _MANY and synthetic in ([], names):
        return match.group()
    ours = [name for name in names if name.startswith("lightning_gradood.") and name not in synthetic]
    shown = ours or synthetic
    return f"known subclasses:{_LINE}{f',{_LINE}'.join([*shown, f'and {len(names) - len(shown)} others'])})"


_FILE = "e.g. `--config configs/digits.yaml`"
_SECTIONS = {
    "seed_everything",
    "trainer",
    "model",
    "data",
    "detection",
    "logging",
    "report",
    "run_dir",
    "cache_dir",
    "threads",
}

# Lines that say how the parser works rather than what is wrong, and the ends of Unions that nobody meant.
_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Expected a path but|Problem with given class_path"
    r"|Not a valid subclass of|Subclass types expect one of|^a (class path|dict) "
    r"|Expected a <class '(NoneType|collections.abc.Iterable)'>"
)
_OTHER_TYPE = re.compile(r"Expected an? [\w.]+$")
_KEY = re.compile(r'(?:- )?Parser key "(.+?)":')
_GIVEN = re.compile(r"Given value: ([^\[{(]{1,60})$")
_VERB = re.compile(r"argument subcommand: invalid choice: '(?P<word>[^']*)' \(choose from")
_UNKNOWN = (
    re.compile(r"Option '(?P<word>[\w.]+)' is not accepted"),
    re.compile(r"unrecognized arguments: --(?P<word>[\w.]+)"),
    re.compile(r"Key '(?P<word>[\w.]+)' is not expected"),
    re.compile(r"there is no class called (?P<word>[\w.]+)"),
    re.compile(r"module '(?P<module>[\w.]+)' has no attribute '(?P<word>\w+)'"),
)
_REWORDED = (  # in this order
    (re.compile(r"<class '([\w.]+)'>"), r"\1"),
    (re.compile(r"typing\.|collections\.abc\."), ""),
    (re.compile(r"Expected a dot import path string: "), "there is no class called "),
    (re.compile(r"Expected a (?=[aeio])"), "Expected an "),
    (re.compile(r"Type Callable\[.*?expects a function or a callable class: "), ""),
    (
        re.compile(r'expected "subcommand" to be one of .*, but it was not provided'),
        f"A verb should come first. Got none. Write e.g. `fit` with an experiment file, {_FILE}; --help lists the verbs",
    ),
    (
        re.compile(r"the following arguments are required: \w+\.(?:model|data).*"),
        f"The keys `model` and `data` should be given. Name an experiment file, {_FILE}",
    ),
    (
        re.compile(r"Expected an instantiatable class, but lightning_gradood\.data\.Source is abstract"),
        "Each name should have a folder or a source with its class_path. Got a name without one. A name with a dot is given "
        "in braces, e.g. --data.anomalies '{my.photos: photos/mine}'",
    ),
    (re.compile(r"Problems parsing config: "), "The configuration file should be YAML. Got: "),
    (re.compile(r' ?in "<unicode string>", '), " in "),
)


def one_sentence(message: str) -> str:
    """Shorten a message of the argument parser.

    Args:
        message: as jsonargparse words it, several nested lines; what it quotes may have been shortened already.

    Returns:
        The key, what is wrong with it, and the nearest spelling that exists if a word is unknown.
    """
    if match := _VERB.search(message):
        near = difflib.get_close_matches(match["word"], VERBS, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else "`--help` lists them."
        return f"A verb should be one of {', '.join(VERBS)}. Got `{match['word']}`. {hint}"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    keys = list(dict.fromkeys(match.group(1) for line in lines if (match := _KEY.match(line))))
    wrong = _wrong(lines)
    if keys and (inner := re.match(r"`([\w.]+)`: ", wrong)):
        keys, wrong = [*keys, inner.group(1)], wrong[inner.end() :]
    where = f"`{'.'.join(keys)}`: " if keys else ""
    return f"{where}{wrong}{'' if wrong.endswith(('?', '.')) else '.'}{_suggestion(wrong)}"


def _wrong(lines: list[str]) -> str:
    rest = [_readable(_KEY.sub("", line).strip()) for line in lines if not _NOISE.search(line)]
    rest = list(dict.fromkeys(filter(None, rest)))
    types = [line for line in rest if _OTHER_TYPE.match(line)]
    if len(types) < len(rest):  # what fits one type of a Union but for a detail is what was meant
        return " ".join(line for line in rest if line not in types)
    given = next((f" Got `{match.group(1)}`." for line in lines if (match := _GIVEN.match(line))), "")
    return f"{' or '.join(types) or 'has a value of the wrong type'}.{given}"


def _readable(wrong: str) -> str:
    for pattern, better in _REWORDED:
        wrong = pattern.sub(better, wrong)
    return wrong


def _suggestion(wrong: str) -> str:
    match = next((match for pattern in _UNKNOWN if (match := pattern.search(wrong))), None)
    if match is None or wrong.endswith("?") or " See --help" in wrong:  # an inner parser has said it
        return ""
    if "module" in match.groupdict():
        return _nearest(match.group("word"), dir(sys.modules.get(match.group("module"))))  # never imported for a hint
    parts = match.group("word").split(".")
    known = _vocabulary()
    word = next((part for part in parts if part not in known), parts[-1])
    if word in known:
        full = known[word]
        return f" Did you mean `{full}`?" if full else f" Does `{word}` belong elsewhere, or is a `class_path` missing?"
    return _nearest(word, known)


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean `{near[0]}`?" if near else " See --help for what is."


@cache
def _vocabulary() -> dict[str, str]:
    """Names that a configuration may use, our own classes and functions with their import path."""
    rooms = (attacks, corruptions, data, detectors, gradients, networks, tasks)
    public = {name: getattr(room, name) for room in rooms for name in room.__all__}
    parameters = {
        name
        for one in (*public.values(), Trainer, DetectionSettings, LoggingSettings, ReportSettings)
        if callable(one)
        for name in inspect.signature(one).parameters
    }
    plain = dict.fromkeys([*parameters, *_SECTIONS, *loggers.__all__, *callbacks.__all__], "")
    return plain | {name: f"{room.__name__}.{name}" for room in rooms for name in room.__all__}


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
        if "\0" in str(cfg_path):
            raise Refusal(f"A file should have a name without NUL characters. Got {str(cfg_path)!r}. Remove them.")
        try:
            if os.path.isfile(cfg_path):  # a pipe from the shell can be read only once
                check_yaml(read_text(cfg_path))
            return super().parse_path(cfg_path, *args, **kwargs)
        except Unparsable as error:
            raise BadText(f"`config` should be a YAML file. Got `config = {cfg_path}`, {error}.") from error
        except UnicodeDecodeError as error:  # of a pipe
            raise Refusal(f"`config` should be a YAML file. Got `config = {cfg_path}`, no text in UTF-8.") from error

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse words; what the parser cannot walk through is refused."""
        try:
            return super().parse_args(*args, **kwargs)
        except RecursionError as error:
            raise BadText(
                "The configuration should be nested as experiment files are. Got one that is nested deeper."
            ) from error
        except ValueError as error:
            if "null byte" not in str(error):
                raise
            raise Refusal(
                "A file should have a name without NUL characters. Got one among the settings. Remove them."
            ) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the refusal that `main` prints."""
        behind = refusal_behind(ex)
        raise (
            behind if isinstance(behind, BadText) else distrusted_in(message) or Refusal(one_sentence(message))
        ) from ex


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
    """Replace names of shipped experiment files behind `--config` by their paths.

    Args:
        words: of the command line.

    Returns:
        The words; a path that exists stays as it is.

    Raises:
        Refusal: no such file exists, and none of that name comes with the package.
    """
    found = list(words)
    for place, word in enumerate(words):
        option, sign, value = word.partition("=")
        if option in ("-c", "--config") and sign:
            found[place] = f"{option}={experiment_file(value)}"
        elif option in ("-c", "--config") and place + 1 < len(words):
            found[place + 1] = experiment_file(words[place + 1])
    return found


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


def unbuildable(error: BaseException) -> Refusal:
    """Word what a constructor raised, its own or a function's that was named by class path.

    Args:
        error: as the parser wrapped it.
    """
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
