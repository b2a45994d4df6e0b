"""The verb `compare`: the results of several runs on one page."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_gradood.cli.score import PlainParser, refuse_existing
from lightning_gradood.cli.verbs import VERBS


def compare(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: of the command line, without the verb.

    Returns:
        The exit code, 0.

    Raises:
        Refusal: a folder holds no results, or the page cannot be written; nothing was written then.
    """
    given = parser().parse_args(words)
    from lightning_gradood.core import atomic_write

    output = Path(given.output)
    _check_output(output, given.overwrite)
    from lightning_gradood.report import comparison_page, comparison_text, read_runs

    runs = read_runs([Path(folder) for folder in given.runs])
    page = comparison_page(runs)
    with atomic_write(output, "--output") as file:
        file.write(page.encode())
    sys.stdout.write(f"{comparison_text(runs)}\nComparison: {output}\n")
    return 0


def _check_output(output: Path, overwrite: bool) -> None:
    from lightning_gradood.core import Refusal

    if output.suffix.lower() not in (".html", ".htm"):
        raise Refusal(f"`--output` should end in .html. Got `--output {output}`. It is a page.")
    if not output.parent.is_dir():
        raise Refusal(
            f"`--output` should lie in a folder that exists. Got `--output {output}`. Make `{output.parent}`, or name another."
        )
    refuse_existing("--output", output, overwrite)


def parser() -> PlainParser:
    """Flags of the verb."""
    made = PlainParser(
        prog="python -m lightning_gradood compare",
        description=VERBS["compare"],
        epilog="The page needs nothing else: AUROC of every detector on every source, differences to the first run, bars, and "
        "the keys in which the configurations differ.",
        allow_abbrev=False,
    )
    add: Any = made.add_argument
    add(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run folder with results: runs/<experiment>/<time>; the first is compared with",
    )
    add(
        "--output", default="compare.html", metavar="FILE", help="the page (default: %(default)s in the current folder)"
    )
    add("--overwrite", action="store_true", help="replace the page if it exists")
    return made
