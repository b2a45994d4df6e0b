"""Verbs without an experiment: typed functions, whose flags are their parameters and whose help is their docstring."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli

from lightning_gradood.cli.sentences import one_sentence
from lightning_gradood.cli.verbs import VERBS

SWITCH: dict[str, Any] = {"action": "store_true"}
"""Spelling of a flag that takes no value."""


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


def call(
    verb: str, function: Callable[..., Any], words: Sequence[str], epilog: str, **spelling: Mapping[str, Any]
) -> Any:
    """Parse the words of a verb and call its function, whose parameters are the flags; return what it returns."""
    return auto_cli(
        function,
        list(words),
        return_instance=True,
        parser_class=PlainParser,
        spelling=spelling,
        prog=f"python -m lightning_gradood {verb}",
        description=VERBS[verb],
        epilog=epilog,
        allow_abbrev=False,
    )


def refuse_existing(flag: str, path: Path, overwrite: bool) -> None:
    """Refuse to write over a file unless the user wants it."""
    from lightning_gradood.core import Refusal

    if os.path.lexists(path) and not overwrite:
        raise Refusal(f"`{flag}` should be a new file. Got `{flag} {path}`, which exists. Add --overwrite.")
