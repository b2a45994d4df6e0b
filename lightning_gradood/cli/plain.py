"""Verbs without an experiment: typed functions, whose flags are their parameters and whose help is their docstring.

What jsonargparse says of wrong words becomes one sentence here, for these verbs and for those with an experiment.
"""

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli

from lightning_gradood.cli.verbs import VERBS

SWITCH: dict[str, Any] = {"action": "store_true"}
"""Spelling of a flag that takes no value."""

_VERB = re.compile(r"argument subcommand: invalid choice: '([^']*)'|expected \"subcommand\" to be one of")
_UNKNOWN_KEY = re.compile(r"(?:[Oo]ption '|Key '|unrecognized arguments: --|keys that it knows\. Got `)([\w.]+)")
_UNKNOWN_CLASS = re.compile(r"(?:dot import path string: |has no attribute '|there is no class called )([\w.]+)")
_KEY = re.compile(r'Parser key "([^"]+)": ?|^`([\w.-]+)`(?:: | (?=should hold only keys))')
_MISSING = re.compile(r"No module named '(\w+)'")
_NOISE = re.compile(  # how the parser works, and alternatives of a Union that nobody means
    r"^$|Does not validate against|Subtypes:|Errors:|Given value type:|Expected a path but"
    r"|Given value: (NestedArg|Namespace|\{|\[)|Problem with given class_path|Subclass types expect|^a (class path|dict) "
    r"|Expected a <class 'NoneType'>|^Type collections.abc.Callable\[\[\], torch.utils.data"
)


class PlainParser(ArgumentParser):
    """Takes some arguments in another spelling than that of their annotation, and refuses in one sentence.

    `spelling` gives, for such a parameter, the arguments of `add_argument`.
    """

    def __init__(self, *args: Any, spelling: Mapping[str, Mapping[str, Any]], **kwargs: Any) -> None:
        self.spelling = spelling
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Called for every parameter."""
        if args[0] == "--config":  # files are for experiments
            return None
        if spelling := self.spelling.get(args[0].removeprefix("--")):
            kwargs = {name: value for name, value in kwargs.items() if name not in ("type", "action")} | {**spelling}
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the refusal that the program prints."""
        from lightning_gradood.core import Refusal

        flags = [flag.removeprefix("--") for action in self._actions for flag in action.option_strings]
        raise Refusal(one_sentence(message, dict.fromkeys(flags, ""), "--")) from ex


def plain(epilog: str, **spelling: Mapping[str, Any]) -> Callable[[Callable[..., Any]], Callable[[Sequence[str]], Any]]:
    """Make a verb of a function of its name: it takes the words behind the verb; the parameters are the flags."""

    def verb(function: Callable[..., Any]) -> Callable[[Sequence[str]], Any]:
        @functools.wraps(function)
        def run(words: Sequence[str]) -> Any:
            return auto_cli(
                function,
                list(words),
                return_instance=True,
                parser_class=PlainParser,
                spelling=spelling,
                prog=f"python -m lightning_gradood {function.__name__}",
                description=VERBS[function.__name__],
                epilog=epilog,
                allow_abbrev=False,
            )

        return run

    return verb


def refuse_existing(flag: str, path: Path, overwrite: bool) -> None:
    """Refuse to write over a file unless the user wants it."""
    from lightning_gradood.core import Refusal

    if os.path.lexists(path) and not overwrite:
        raise Refusal(f"`{flag}` should be a new file. Got `{flag} {path}`, which exists. Add --overwrite.")


def unknown_verb(word: str) -> str:
    """Say that a word, or none, stands where a verb should."""
    if not word or word.startswith("-"):
        got = f"`{word}`" if word else "none"
        return f"A verb should come first, e.g. `fit --config digits`. Got {got}. `--help` lists the verbs."
    return f"A verb should be one of {', '.join(VERBS)}. Got `{word}`. {_hint(word, dict.fromkeys(VERBS, ''))}"


def one_sentence(message: str, known: Mapping[str, str], flag: str = "") -> str:
    """Shorten a message of the argument parser to the key, what is wrong with it, and the nearest known name for an unknown one.

    `known` are names that may be used, classes with their import path; `flag` stands before a key, such as `--`.

    Examples:
        >>> one_sentence("unrecognized arguments: --trainer.max_epoch 3", {"trainer": "", "max_epochs": ""})
        'The configuration should hold only keys that it knows. Got `trainer.max_epoch`. Did you mean `max_epochs`?'
    """
    if match := _VERB.search(message):
        return unknown_verb(match[1] or "")
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    keys = list(dict.fromkeys(key for line in lines for found in _KEY.findall(line) for key in found if key))
    where = f"`{flag}{'.'.join(keys)}`: " if keys else ""
    if match := _UNKNOWN_KEY.search(message):
        where = where.removesuffix(": ") or "The configuration"
        return f"{where} should hold only keys that it knows. Got `{match[1]}`. {_hint(match[1], known)}"
    if match := _UNKNOWN_CLASS.search(message):
        word = match[1].rstrip(".")
        return f"{where}there is no class called {word}. {_hint(word, known)}"
    lines = [
        _KEY.sub("", _MISSING.sub(r"\g<0>; install it, or correct the name: python -m pip install \1", one))
        for one in lines
    ]
    rest = "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if not _NOISE.search(line)))
    return f"{where}{rest or 'a value of the wrong type'}."


def _hint(word: str, known: Mapping[str, str]) -> str:
    """Name the nearest of the known names to the first part of a dotted word that is none of them."""
    from lightning_gradood.core import did_you_mean

    part = next((part for part in word.split(".") if part not in known), word.rpartition(".")[2])
    if part in known:  # a class that has to be named with its path, or a key in the wrong place
        return f"Did you mean `{known[part]}`?" if known[part] else "See --help."
    return did_you_mean(part, known, "See --help.")
