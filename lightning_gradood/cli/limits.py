"""Limits on what the parser reads as YAML, on the command line and in files: every text is looked at before it is expanded."""

from collections.abc import Callable
from typing import Any

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader

from lightning_gradood.core import Refusal, Unparsable, check_yaml


class BadText(Refusal):
    """A text of the configuration that is parsed no further: it passes a limit, or no converter takes it."""


def limit_texts() -> None:
    """Put the limits before the parser's loaders."""
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
        except Unparsable as error:
            raise _bad(text, f"{error}. Write it out without aliases") from error
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # of a tag's or a number's converter
            raise _bad(text, f"which cannot be converted ({error}). Put text in quotes") from error

    return limited


def _bad(text: str, got: str) -> BadText:
    start = " ".join(text[:60].split())
    return BadText(f"A value of the configuration should be short YAML. Got `{start}{'…' * (len(text) > 60)}`, {got}.")
