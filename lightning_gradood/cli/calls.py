"""Calls of the command line as functions: parse one, or run it in this process."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from lightning.pytorch.callbacks import Callback

from lightning_gradood.cli.command import Command
from lightning_gradood.evaluation import Outcome


class _Parsed(Command):
    """A call that is parsed, and not run."""

    def before_instantiate_classes(self) -> None:
        """Leave the file system alone."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def _set_seed(self) -> None:
        """Seed nothing."""


def configuration_of(words: list[str]) -> dict[str, Any]:
    """Return the resolved configuration of a command line, as plain values, without running it."""
    with ExitStack() as leaving:
        return _Parsed(leaving, words).configuration


def run_verb(words: list[str], callbacks: Sequence[Callback] = ()) -> list[Outcome]:
    """Run a verb in this process; return one outcome for each anomaly source and detector that it fitted."""
    with ExitStack() as leaving:
        return Command(leaving, words, callbacks).outcomes
