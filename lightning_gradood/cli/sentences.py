"""What jsonargparse says of wrong words, in one sentence; only jsonargparse itself is imported."""

import difflib
import re
from collections.abc import Mapping

from lightning_gradood.cli.verbs import VERBS

_VERB = re.compile(r"argument subcommand: invalid choice: '(?P<word>[^']*)'|expected \"subcommand\" to be one of")
_UNKNOWN_KEY = re.compile(
    r"(?:[Oo]ption '|Key '|unrecognized arguments: --|keys that it knows\. Got `)(?P<word>[\w.]+)"
)
_UNKNOWN_CLASS = re.compile(
    r"(?:Expected a dot import path string: |has no attribute '|there is no class called )(?P<word>[\w.]+)"
)
_KEY = re.compile(r'Parser key "([^"]+)": ?|^`([\w.-]+)`(?:: | (?=should hold only keys))')
_NOISE = re.compile(  # how the parser works, and alternatives of a Union that nobody means
    r"^$|Does not validate against|Subtypes:|Errors:|Given value type:|Expected a path but"
    r"|Given value: (NestedArg|Namespace|\{|\[)|Problem with given class_path|Subclass types expect|^a (class path|dict) "
    r"|Expected a <class 'NoneType'>"
)


def one_sentence(message: str, known: Mapping[str, str], flag: str = "") -> str:
    """Shorten a message of the argument parser to the key, what is wrong with it, and the nearest known name for an unknown one.

    Args:
        message: as jsonargparse words it, several nested lines.
        known: names that may be used, classes with their import path, other names with an empty text.
        flag: what stands before a key, such as `--`.

    Example:
        >>> one_sentence("unrecognized arguments: --trainer.max_epoch 3", {"trainer": "", "max_epochs": ""})
        'The configuration should hold only keys that it knows. Got `trainer.max_epoch`. Did you mean `max_epochs`?'
    """
    if match := _VERB.search(message):
        if match["word"] is None:
            return "A verb should come first, e.g. `fit --config digits`. Got none. `--help` lists the verbs."
        hint = _hint(match["word"], dict.fromkeys(VERBS, ""))
        return f"A verb should be one of {', '.join(VERBS)}. Got `{match['word']}`. {hint}"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    keys = list(dict.fromkeys(key for line in lines for found in _KEY.findall(line) for key in found if key))
    where = f"`{flag}{'.'.join(keys)}`: " if keys else ""
    if match := _UNKNOWN_KEY.search(message):
        where = where.removesuffix(": ") or "The configuration"
        return f"{where} should hold only keys that it knows. Got `{match['word']}`. {_hint(match['word'], known)}"
    if match := _UNKNOWN_CLASS.search(message):
        word = match["word"].rstrip(".")
        return f"{where}there is no class called {word}. {_hint(word, known)}"
    lines = [_KEY.sub("", line) for line in lines]
    rest = "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if not _NOISE.search(line)))
    return f"{where}{rest or 'a value of the wrong type'}."


def _hint(word: str, known: Mapping[str, str]) -> str:
    """The nearest of the known names to the first part of a dotted word that is none of them."""
    part = next((part for part in word.split(".") if part not in known), word.rpartition(".")[2])
    near = known.get(part) or next(iter(difflib.get_close_matches(part, known, n=1)), part)
    return "See --help." if near == part else f"Did you mean `{near}`?"
