"""The verb `compare`: a page over several runs, or the page of one made anew."""

import sys
from pathlib import Path

from lightning_gradood.cli.plain import SWITCH, plain, refuse_existing


@plain(
    "The page needs nothing else: AUROC of every detector on every source, differences to the first run, bars, and the keys "
    "in which the configurations differ. Of a single run its own page is made anew.",
    runs={"nargs": "+", "type": str},
    overwrite=SWITCH,
)
def compare(runs: list[str], *, output: str | None = None, overwrite: bool = False) -> None:
    """Write the page.

    Args:
        runs: run folders with results: runs/<experiment>/<time>; the first is compared with.
        output: the page; by default compare.html in the current folder, or for a single run its own report.html.
        overwrite: replace the page if it exists.
    """
    from lightning_gradood.core import Refusal, atomic_write
    from lightning_gradood.report import comparison_page, comparison_text, read_runs

    if output and Path(output).suffix.lower() not in (".html", ".htm"):
        raise Refusal(f"`--output` should end in .html, as it is a page. Got `--output {output}`. Name it so.")
    own = len(runs) == 1 and output is None
    place = Path(runs[0], "report.html") if own else Path(output or "compare.html")
    refuse_existing("--output", place, overwrite or output is None)
    found = read_runs([Path(folder) for folder in runs])
    page = comparison_page(found)
    with atomic_write(place, "--output") as file:
        file.write(page.encode())
    sys.stdout.write(f"{comparison_text(found)}\n{'Page' if own else 'Comparison'}: {place}\n")
