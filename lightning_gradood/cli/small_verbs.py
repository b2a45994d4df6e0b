"""Verbs on what runs have left, functions whose parameters are their flags: `refit`, `compare`, `dashboard`, `configs`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from jsonargparse.typing import PositiveFloat

from lightning_gradood.cli.plain import SWITCH, plain, refuse_existing

_DEFINITION = "dashboard.json"


@plain(
    "Marks are `normal` or an anomaly's name. Normal images join the calibration; anomalies become known to the detector, which "
    "still looks for unknown ones. The old guard stays as it is.",
    trust={"action": "append", "type": str},
)
def refit(
    *,
    guard: str,
    marked: str,
    output: str,
    device: str = "cpu",
    max_megapixels: PositiveFloat = 89.0,
    trust: list[str] | None = None,
) -> None:
    """Refit a guard with marked images, save it as a new one, and say what changes.

    Args:
        guard: folder of the old guard: runs/<experiment>/<time>/guard.
        marked: the table of `score --triage`, marked; or any with the columns path and mark.
        output: folder of the new guard.
        device: where the network runs, e.g. cuda.
        max_megapixels: larger images are refused.
        trust: a package of yours whose classes the guard may name; may be given several times.
    """
    from lightning_gradood.guard import Guard, read_marked
    from lightning_gradood.guard import refit as refitted
    from lightning_gradood.report import read_marks, refit_text

    refuse_existing("--output", Path(output), overwrite=False)
    marks, old = read_marks(Path(marked)), Guard.load(guard, trust or (), device)
    new, changes = refitted(old, read_marked(old, marks, max_megapixels))
    new.save(output)
    sys.stdout.write(f"{refit_text(new, changes, len(marks.usual))}\nguard: {output}\n")


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


@plain(
    "An earlier dashboard of the project is replaced. Without a W&B account only the definition is written.",
    run={"nargs": "?", "type": str, "default": ""},
)
def dashboard(run: str, *, entity: str, project: str = "lightning_gradood") -> None:
    """Write the definition, and send it.

    Args:
        run: folder of a run with the sources and detectors; by default the newest below runs/.
        entity: W&B's team or user.
        project: W&B's project.
    """
    from lightning_gradood.core import Refusal, atomic_write
    from lightning_gradood.report import Run, apply_dashboard, dashboard_definition, has_wandb_account, newest_run

    folder = Path(run) if run else newest_run(Path("runs"))
    if folder is None:
        raise Refusal(
            "`dashboard` should have a run to take sources and detectors from. Got none, and no runs/*/*/results.parquet "
            "exists. Name a run folder that `detect` has filled."
        )
    definition = dashboard_definition(Run.read(folder))
    with atomic_write(folder / _DEFINITION, "RUN") as file:
        file.write(f"{json.dumps(definition, indent=2)}\n".encode())
    sys.stdout.write(f"Definition, for the sources and detectors of {folder}: {folder / _DEFINITION}\n")
    if has_wandb_account():
        workspace, report = apply_dashboard(definition, entity, project)
        sys.stdout.write(f"Workspace: {workspace}\nReport: {report}\n")
    else:
        again = f"python -m lightning_gradood dashboard {shlex.join([str(folder), '--entity', entity, '--project', project])}"
        sys.stdout.write(
            f"Nothing was sent, as no W&B account is configured. To apply it: `wandb login`, then `{again}`.\n"
        )


@plain("", names={"nargs": "*", "type": str, "default": []})
def configs(names: list[str], *, copy: str | None = None) -> None:
    """List or copy files.

    Args:
        names: which files, e.g. digits; all by default.
        copy: folder to copy them to, into configs/ and sweeps/; changed files are not replaced.
    """
    from lightning_gradood.core import Refusal, atomic_write, did_you_mean, shipped_files

    found = {
        f"{folder}/{path.name}": path for folder in ("configs", "sweeps") for path in shipped_files(folder).values()
    }
    for name in names:
        if not any(name in (key, path.name, path.stem) for key, path in found.items()):
            hint = did_you_mean(name, [path.stem for path in found.values()], "`configs` without a name lists them.")
            raise Refusal(f"`configs` should name files that come with the package. Got `{name}`. {hint}")
    found = {key: path for key, path in found.items() if not names or {key, path.name, path.stem} & set(names)}
    if copy is None:
        width = max(map(len, found)) + 2
        sys.stdout.writelines(f"{name:<{width}}{_first_sentence(path)}\n" for name, path in found.items())
        sys.stdout.write(
            "\nRun one by its name, e.g. `fit --config digits`; `configs --copy FOLDER` copies them to change them.\n"
        )
        return
    targets = {Path(copy, name): path.read_bytes() for name, path in found.items()}
    for target, content in targets.items():
        if target.exists() and target.read_bytes() != content:
            raise Refusal(
                f"`--copy` should not replace files that were changed. Got {target}, which differs from the shipped one. "
                "Name another folder, or move yours away; nothing was copied."
            )
    for target, content in targets.items():
        with atomic_write(target, "--copy") as file:
            file.write(content)
        sys.stdout.write(f"{target}\n")


def _first_sentence(path: Path) -> str:
    """What a file says of itself in its first comment, up to the first command."""
    comment = path.read_text(encoding="utf-8").partition("\n#   ")[0].partition("\n\n")[0]
    words = [line.removeprefix("#").strip() for line in comment.splitlines() if line.startswith("#")]
    return " ".join(words).split(". ")[0].rstrip(".")
