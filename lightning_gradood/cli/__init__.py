"""The command line: `python -m lightning_gradood VERB --config FILE [--any.key value ...]`.

One experiment file drives every verb. Lightning's command line does the work; what is added is a run folder that is never
overwritten by accident, `detection` settings for stage two, interpolation (`${oc.env:DATA_DIR,data}`, `${div:8,255}`)
that is resolved after all files and flags, and refusals in one sentence with exit code 2.

    >>> from lightning_gradood.cli import main
    >>> main(["fit", "--config", "configs/digits.yaml"])  # doctest: +SKIP
"""

from lightning_gradood.cli.main import main

__all__ = ["main"]
