"""The verb `drift`: compare the scores of new images with those of reference images."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_gradood.cli.plain import SWITCH, call, refuse_existing

ALARM = 4
"""Exit code where the drift is beyond `--alarm`."""

_SIGNIFICANT = 0.01  # an alarm needs a p-value below it, so that few images raise none by chance


def drift(words: Sequence[str]) -> int:
    """Run the verb with the words behind it; exit code 4 where the distance is above `--alarm` and not by chance."""
    epilog = "Exit code 4 if the distance is above --alarm and its p-value below 0.01."
    code: int = call("drift", _drift, words, epilog, overwrite=SWITCH)
    return code


def _drift(
    reference: str,
    new: str,
    *,
    alarm: float | None = None,
    figure: str | None = None,
    detector: str | None = None,
    overwrite: bool = False,
) -> int:
    """Compare two tables of scores.

    Args:
        reference: scores of images as usual: written by `score`, or a run's scores.parquet.
        new: scores of new images by the same guard, written by `score`.
        alarm: largest distance of the two distributions that is no alarm, in [0, 1).
        figure: a PNG file; by default NEW's name with _drift.png.
        detector: whose scores, where a table is a run's scores.parquet: its normal test images.
        overwrite: replace the figure if it exists.
    """
    from lightning_gradood.core import Refusal, atomic_write
    from lightning_gradood.report import ScoredImages, as_png, drift_by_class, drift_figure, drift_table

    if alarm is not None and not 0 <= alarm < 1:
        raise Refusal(f"`--alarm` should be at least 0 and below 1. Got `--alarm {alarm}`. It is a distance.")
    place = Path(figure or Path(new).with_name(f"{Path(new).stem}_drift.png"))
    refuse_existing("--figure", place, overwrite)
    before, after = (ScoredImages.read(Path(path), detector) for path in (reference, new))
    found = drift_by_class(before, after)
    with atomic_write(place, "--figure") as file:
        file.write(as_png(drift_figure(before, after, found)))
    sys.stdout.write(f"{drift_table(found)}\nfigure: {place}\n")
    overall = found["all"]
    if alarm is None or overall.distance <= alarm or overall.p_value >= _SIGNIFICANT:
        return 0
    sys.stdout.write(f"ALARM: the distance {overall.distance:.3f} is above {alarm:g}.\n")
    return ALARM
