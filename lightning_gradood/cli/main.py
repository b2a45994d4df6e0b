"""The entry of the program."""

import sys
from collections.abc import Sequence

from lightning_gradood.cli.verbs import overview


def main(args: Sequence[str] | None = None) -> None:
    """Run one verb, e.g. `main(["fit", "--config", "configs/digits.yaml"])`.

    Args:
        args: words of the command line; those of the process by default.

    Raises:
        SystemExit: with code 2 after one sentence on standard error, where the input is refused; with 143 after
            SIGTERM; after Ctrl-C with 1 from Lightning's loops and 130 from elsewhere.
    """
    words = sys.argv[1:] if args is None else list(args)
    if words in (["--help"], ["-h"]):
        sys.stdout.write(f"{overview()}\n")
        sys.exit(0)
    from lightning_gradood.cli.program import run_program

    run_program(args)
