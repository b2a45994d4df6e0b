"""The verb `refit`: a guard that knows what a person has marked. Lightning is not imported, and for `--help` torch is not."""

import sys
from pathlib import Path

from jsonargparse.typing import PositiveFloat

from lightning_gradood.cli.plain import plain, refuse_existing


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
