"""The program's entry: run a verb, or say in one sentence why not."""

import logging
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack

from lightning_gradood.cli.command import Command
from lightning_gradood.cli.interpolation import interpolation
from lightning_gradood.errors import Refusal


def main(args: Sequence[str] | None = None) -> None:
    """Run one verb, e.g. `main(["fit", "--config", "configs/digits.yaml"])`.

    Args:
        args: words of the command line; those of the process by default.

    Raises:
        SystemExit: with code 2 after one sentence on standard error, where the input is refused.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)
    # Lightning 2.6 meets torch 2.15 with this one; users can do nothing about it
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated")
    # a run that is continued finds its own checkpoints; whose they are was looked at before
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    # the summary's estimate of megabytes under mixed precision, which nobody asked for
    warnings.filterwarnings("ignore", "Precision .* is not supported by the model summary")
    with ExitStack() as leaving:
        try:
            with interpolation():
                Command(leaving, None if args is None else list(args))
        except Refusal as refusal:
            sys.stderr.write(f"error: {refusal}\n")
            sys.exit(2)


def _no_advertisement(record: logging.LogRecord) -> bool:
    """Lightning recommends other products at every start, above the lines that matter."""
    return "Tip: For seamless cloud" not in record.getMessage()
