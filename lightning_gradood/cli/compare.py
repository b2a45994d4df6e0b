"""The verb `compare`: the results of several runs on one page."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_gradood.cli.plain import SWITCH, call, refuse_existing


def compare(words: Sequence[str]) -> int:
    """Run the verb with the words behind it, and return the exit code, 0."""
    epilog = (
        "The page needs nothing else: AUROC of every detector on every source, differences to the first run, bars, and the keys "
        "in which the configurations differ. Of a single run its own page is made anew."
    )
    code: int = call("compare", _compare, words, epilog, runs={"nargs": "+", "type": str}, overwrite=SWITCH)
    return code


def _compare(runs: list[str], *, output: str | None = None, overwrite: bool = False) -> int:
    """Write the page.

    Args:
        runs: run folders with results: runs/<experiment>/<time>; the first is compared with.
        output: the page; by default compare.html in the current folder, or for a single run its own report.html.
        overwrite: replace the page if it exists.
    """
    from lightning_gradood.core import atomic_write
    from lightning_gradood.report import comparison_page, comparison_text, read_runs

    own = len(runs) == 1 and output is None
    place = Path(runs[0], "report.html") if own else Path(output or "compare.html")
    if not own:
        _check_output(place, overwrite)
    found = read_runs([Path(folder) for folder in runs])
    page = comparison_page(found)
    with atomic_write(place, "--output") as file:
        file.write(page.encode())
    sys.stdout.write(f"{comparison_text(found)}\n{'Page' if own else 'Comparison'}: {place}\n")
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
