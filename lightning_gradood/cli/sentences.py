"""Turn the parser's nested messages into one sentence with the nearest right spelling."""

import difflib
import inspect
import re
from collections.abc import Iterable
from importlib import import_module

from lightning.pytorch import Trainer

import lightning_gradood.data as data
import lightning_gradood.gradients as gradients
import lightning_gradood.networks as networks
import lightning_gradood.tasks as tasks
from lightning_gradood.detectors import DetectionSettings

# Lines that say how the parser works rather than what is wrong, and the ends of Unions that nobody meant.
_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|(- )?Expected a <class '(NoneType|str)'>$"
    r"|- Expected a path but|Problem with given class_path|- Problem with given class_path"
)
_KEY = re.compile(r'(?:- )?Parser key "(.+?)":')
_UNKNOWN = (
    re.compile(r"Option '(?P<word>[\w.]+)' is not accepted"),
    re.compile(r"unrecognized arguments: --(?P<word>[\w.]+)"),
    re.compile(r"Key '(?P<word>[\w.]+)' is not expected"),
    re.compile(r"Expected a dot import path string: (?P<word>[\w.]+)"),
    re.compile(r"module '(?P<module>[\w.]+)' has no attribute '(?P<word>\w+)'"),
)


def one_sentence(message: str) -> str:
    """Shorten a message of the argument parser.

    Args:
        message: as jsonargparse words it, several nested lines.

    Returns:
        The key, what is wrong with it, and the nearest spelling that exists if a word is unknown.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    keys = list(dict.fromkeys(match.group(1) for line in lines if (match := _KEY.match(line))))
    rest = [_KEY.sub("", line).strip().removeprefix("- ") for line in lines if not _NOISE.match(line)]
    wrong = " ".join(dict.fromkeys(filter(None, rest))).rstrip(".") or "has a value of the wrong type"
    where = f"`{'.'.join(keys)}`: " if keys else ""
    return f"{where}{_readable(wrong)}.{_suggestion(wrong)}"


def _readable(wrong: str) -> str:
    wrong = re.sub(r"<class '([\w.]+)'>", r"\1", wrong)
    return wrong.replace("typing.", "").replace("Expected a dot import path string: ", "there is no class called ")


def _suggestion(wrong: str) -> str:
    match = next((match for pattern in _UNKNOWN if (match := pattern.search(wrong))), None)
    if match is None:
        return ""
    word = match.group("word").rpartition(".")[2]
    known = dir(import_module(match.group("module"))) if "module" in match.groupdict() else _vocabulary()
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean `{near[0]}`?" if near else " See --help for what is."


def _vocabulary() -> set[str]:
    """Names that a configuration may use: parameters of the classes it names most, and our own classes."""
    rooms = (data, gradients, networks, tasks)
    public = {name: getattr(room, name) for room in rooms for name in room.__all__}
    described: Iterable[object] = [*public.values(), Trainer, DetectionSettings]
    parameters = {name for one in described if callable(one) for name in inspect.signature(one).parameters}
    return (
        parameters | set(public) | {"seed_everything", "trainer", "model", "data", "detection", "run_dir", "cache_dir"}
    )
