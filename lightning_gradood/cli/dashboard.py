"""The verb `dashboard`: a workspace and a report in W&B for the runs of a project."""

import json
import shlex
import sys
from pathlib import Path

from lightning_gradood.cli.plain import plain

_DEFINITION = "dashboard.json"


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
