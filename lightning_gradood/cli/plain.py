"""Verbs without an experiment: typed functions, whose flags are their parameters and whose help is their docstring.

What jsonargparse says of wrong words becomes one sentence here, for these verbs and for those with an experiment.
"""

import difflib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli

from lightning_gradood.cli.verbs import VERBS

SWITCH: dict[str, Any] = {"action": "store_true"}
"""Spelling of a flag that takes no value."""

_VERB = re.compile(r"argument subcommand: invalid choice: '([^']*)'|expected \"subcommand\" to be one of")
_UNKNOWN_KEY = re.compile(r"(?:[Oo]ption '|Key '|unrecognized arguments: --)([\w.-]+)")
_UNKNOWN_CLASS = re.compile(r"(?:dot import path string: |module '([\w.]+)' has no attribute ')([\w.]+)")
_MISSING = re.compile(r"arguments are required: (.+)")
_KEY = re.compile(r'Parser key "([^"]+)"(?: element \d+)?: ?')
_OWN = re.compile(r"(?:`([\w.-]+)`|The configuration)(:? .+)")
_ABSENT = re.compile(r"No module named '(\w+)'")
_TYPE = re.compile(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])")
_VALUE = re.compile(r"(?:Got|Given) value: (.*?)\.?$")
_SENTENCES = (  # what the parser says, and what should be
    (
        r"callable class.* but got NestedArg\(key='(.*?)'",
        "name a class, and then its arguments. Got `{}` alone. Name it first.",
    ),
    (
        r"callable class.* but got None|'NoneType'|value: None\.?$",
        "have a value. Got null. Leave it out for the default.",
    ),
    (
        r"class, but ([\w.]+) is abstract",
        "name a class that can be built, arguments under `init_args`. Got {}: abstract.",
    ),
    (r"invalid literal for int\(\) with base 10: '(.*)'", "be a whole number. Got {}."),
    (r"could not convert string to float: '(.*)'", "be a number. Got {}."),
    (r"Not of type \w+: (\S+) does not conform to restriction (.*)", "be a number {1}. Got {0}."),
    (r"does not conform to restriction (.*)\n(?:Given|Got) value: (.*)", "be a number {0}. Got {1}."),
    (r"Not of type NotEmptyStr", "not be empty. Leave it out for the default."),
    (r"Unable to load config ['\"](.*?)['\"]", "hold settings. Got {}. Leave it out for the defaults."),
)
_ORDER = re.compile(r" and v<inf|v([<>]=?)")
_WORDS = {None: "", ">": "above ", ">=": "of at least ", "<": "below ", "<=": "at most "}
_NOISE = re.compile(  # how the parser works, and alternatives of a Union that nobody means
    r"^$|Does not validate against|Subtypes:|Errors:|Given value type:|Expected a path but|Expected a dot import path"
    r"|Given value: (NestedArg|Namespace|\{|\[)|Problem with given class_path|Subclass types expect|^a (class path|dict) "
    r"|Expected a <class 'NoneType'>|^Type collections.abc.Callable\[\[\], torch.utils.data"
)
_PLAIN = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "list": "a list",
          "dict": "a mapping"}  # fmt: skip
_FEW = 12  # keys of a class that are listed where none is near


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

    def _parse_known_args(self, words: Any, namespace: Any, **more: Any) -> Any:  # type: ignore[override]
        """Find flags first, then lists, whose words may stand on both sides of flags, as argparse's intermixed parsing."""
        alone = {f"--{name}": one["const"] for name, one in self.spelling.items() if "const" in one}
        words = [  # a flag that may have a number takes no word of a list for it
            word if word not in alone or following.isdecimal() else f"{word}={alone[word]}"
            for word, following in zip(words, [*words, ""][1:], strict=True)
        ]
        self._get_positional_actions = list  # type: ignore[method-assign]
        try:
            namespace, rest = super()._parse_known_args(words, namespace, **more)
        finally:
            del self._get_positional_actions
        return super()._parse_known_args(rest, namespace, **more)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the refusal that the program prints."""
        from lightning_gradood.core import Refusal

        raise Refusal(one_sentence(message, own_keys(self), "--")) from ex


def own_keys(parser: ArgumentParser) -> list[str]:
    """Keys of a parser's flags, and those of the verbs below it."""
    parsers = [parser, *(getattr(parser._subcommands_action, "choices", None) or {}).values()]
    words = [word for one in parsers for action in one._actions for word in action.option_strings]
    return [word[2:] for word in words if word.startswith("--") and not word.endswith(("help", "+"))]


def plain(epilog: str, **spelling: Mapping[str, Any]) -> Callable[[Callable[..., Any]], Callable[[Sequence[str]], Any]]:
    """Make a verb of a function of its name: it takes the words behind the verb; the parameters are the flags."""

    def verb(function: Callable[..., Any]) -> Callable[[Sequence[str]], Any]:
        takes = inspect.getfullargspec(function)
        needed = [f"--{name} {name.upper()}" for name in takes.kwonlyargs if name not in (takes.kwonlydefaults or {})]
        usage = " ".join(["%(prog)s", *needed, "[--flag value ...]", *map(str.upper, takes.args)])

        @functools.wraps(function)
        def run(words: Sequence[str]) -> Any:
            return auto_cli(
                function,
                list(words),
                return_instance=True,
                parser_class=PlainParser,
                spelling=spelling,
                prog=f"python -m lightning_gradood {function.__name__}",
                usage=usage,
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
    near = difflib.get_close_matches(word.lower(), VERBS, 1)
    return f"A verb should be one of {', '.join(VERBS)}. Got `{word}`. {_meant(near) or 'See --help.'}"


def one_sentence(message: str, keys: Sequence[str], flag: str = "", classes: Mapping[str, str] | None = None) -> str:
    """Shorten a message of an argument parser to the key, what is wrong with it, and the nearest known name for an unknown one.

    `keys` are those of the parser; `classes` may be named, each with its import path; `flag` stands before a key, as `--`.

    Example:
        >>> one_sentence("unrecognized arguments: --trainer.max_epoch 3", ["config", "trainer.max_epochs"])
        'The configuration should hold only keys that it knows. Got `trainer.max_epoch`. Did you mean `trainer.max_epochs`?'
    """
    if match := _VERB.search(message):
        return unknown_verb(match[1] or "")
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    names = list(dict.fromkeys(key for line in lines for key in _KEY.findall(line)))
    lines = [_KEY.sub("", _ABSENT.sub(r"\g<0>; correct the name, or python -m pip install \1", line)) for line in lines]
    where = f"`{flag}{'.'.join(names)}`" if names else ""
    if own := next(filter(None, map(_OWN.fullmatch, lines)), None):  # said already by the parser of a part
        path = ".".join([*names, *filter(None, [own[1]])])
        return f"`{path}`{own[2]}" if path else f"The configuration{own[2]}"
    if match := _UNKNOWN_KEY.search(message):
        hint = key_hint(match[1], keys)
        return f"{where or 'The configuration'} should hold only keys that it knows. Got `{match[1]}`. {hint}"
    kept = [line for line in lines if not _NOISE.search(line)]
    types = [match for match in map(_TYPE.search, kept) if match]
    if (match := _UNKNOWN_CLASS.search(message)) and "float" not in [one[1] for one in types]:
        word, known = match[2].rstrip("."), vars(sys.modules[match[1]]) if match[1] in sys.modules else classes or {}
        return f"{where}{': ' * bool(where)}there is no class called {word}. {_class_hint(word, known)}"
    if match := _MISSING.search(message):
        missing = [re.sub(rf"^({'|'.join(VERBS)})\.", "", one) for one in match[1].rstrip(".").split(", ")]
        paths = [f"`{flag if one in keys else ''}{'.'.join([*names, one])}`" for one in missing]
        fix = "Name an experiment file, e.g. --config digits." if {"data", "model"} & {*missing} else "See --help."
        return f"{', '.join(paths)} should be given. Got none. {fix}"
    for pattern, words in _SENTENCES:
        if match := re.search(pattern, "\n".join(kept), re.MULTILINE):
            return f"{where} should {_ORDER.sub(lambda one: _WORDS[one[1]], words.format(*match.groups()))}"
    value = next((one[1] for one in map(_VALUE.search, kept) if one), "")
    rest = dict.fromkeys(line.rstrip(".") for line in kept if not _TYPE.search(line) and not _VALUE.match(line))
    if rest or not types:
        return f"{where}{': ' * bool(where)}{'; '.join(rest) or 'a value of the wrong type'}."
    options = [option.strip(" '") for one in types if one[2] for option in one[2].split(",")]
    found = [_PLAIN.get(one[1], one[1]) for one in types if one[1]] + [
        f"one of {', '.join(dict.fromkeys(options))}"
    ] * bool(options)
    fix = _meant(difflib.get_close_matches(value, options, 1)) or (f"Write [{value}]." if found == ["a list"] else "")
    return f"{where} should be {' or '.join(found)}. Got {value or 'another'}. {fix}".rstrip()


def key_hint(word: str, keys: Sequence[str]) -> str:
    """Name the key that is nearest to an unknown one, as a whole or in its last part; where none is near, list a few."""
    places = {part: key for key in reversed(keys) for part in (key.rpartition(".")[2], key)}
    first, _, last = word.replace("-", "_").partition(".")
    for part, least in ((f"{first}.{last}".rstrip("."), 0.75), (first, 0.6), (last, 0.6)):
        if near := difflib.get_close_matches(part, places, 3, least):
            return _meant([places[max(near, key=lambda one: one.startswith(part[:4]))]])
    listed = [key for key in keys if "." not in key and key != "config" and not key.startswith("print_")]
    return f"Its keys are {', '.join(listed)}." if 0 < len(listed) <= _FEW else "See --help."


def _class_hint(word: str, known: Mapping[str, Any]) -> str:
    """Name the nearest class, one that is known by its import path."""
    if path := known.get(word):
        return _meant([path])
    return _meant(difflib.get_close_matches(word, known, 1)) or "Give its import path, as in my_package.MyClass."


def _meant(names: Sequence[str]) -> str:
    return f"Did you mean `{names[0]}`?" if names else ""
