"""Turn the parser's nested messages into one sentence with the nearest right spelling."""

import difflib
import inspect
import re
from collections.abc import Iterable
from functools import cache
from importlib import import_module

from lightning.pytorch import Trainer, callbacks, loggers

import lightning_gradood.attacks as attacks
import lightning_gradood.corruptions as corruptions
import lightning_gradood.data as data
import lightning_gradood.gradients as gradients
import lightning_gradood.networks as networks
import lightning_gradood.tasks as tasks
from lightning_gradood.detectors import DetectionSettings

_FILE = "e.g. `--config configs/digits.yaml`"
_SECTIONS = {"seed_everything", "trainer", "model", "data", "detection", "run_dir", "cache_dir"}

# Lines that say how the parser works rather than what is wrong, and the ends of Unions that nobody meant.
_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Expected a path but|Problem with given class_path"
    r"|Not a valid subclass of|Subclass types expect one of|^a (class path|dict) "
    r"|Expected a <class '(NoneType|collections.abc.Iterable)'>"
)
_OTHER_TYPE = re.compile(r"Expected an? [\w.]+$")
_KEY = re.compile(r'(?:- )?Parser key "(.+?)":')
_GIVEN = re.compile(r"Given value: ([^\[{(]{1,60})$")
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
        return _nearest(match.group("word"), dir(import_module(match.group("module"))))
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
    rooms = (attacks, corruptions, data, gradients, networks, tasks)
    public = {name: getattr(room, name) for room in rooms for name in room.__all__}
    parameters = {
        name
        for one in (*public.values(), Trainer, DetectionSettings)
        if callable(one)
        for name in inspect.signature(one).parameters
    }
    plain = dict.fromkeys([*parameters, *_SECTIONS, *loggers.__all__, *callbacks.__all__], "")
    return plain | {name: f"{room.__name__}.{name}" for room in rooms for name in room.__all__}
