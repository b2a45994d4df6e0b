"""Command lines that are parsed and looked at, and not run, with one parser for all tests of a worker."""

import functools
from contextlib import ExitStack

from lightning_gradood.cli.parsing import check_settings, interpolation, with_shipped_files
from lightning_gradood.cli.program import Parsed
from lightning_gradood.core import Refusal


@functools.cache
def _parsed(verb):
    with ExitStack() as leaving:
        return Parsed(leaving, [verb, "--config", "tiny.yaml"])


def verdict(*flags, verb="fit", file="tiny.yaml"):
    """The sentence of a refusal of a verb's flags behind an experiment file, or the parsed configuration."""
    try:
        with interpolation():
            command = _parsed(verb)
            config = command.parser.parse_args(with_shipped_files([verb, "--config", file, *flags]))[verb]
            check_settings(command._parser(verb), config)
            return config
    except Refusal as refusal:
        return str(refusal)


def check(rows):
    """Assert that what is said of each row's flags is one line with the row's words."""
    said = [(flags, words, str(verdict(*flags))) for flags, words in rows]
    assert [f"{flags}: {got[:300]}" for flags, words, got in said if words not in got or "\n" in got] == []
