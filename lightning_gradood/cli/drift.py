"""The verb `drift`: two tables of scores, or a stream of them that is followed from call to call."""

import sys
from pathlib import Path

from jsonargparse.typing import OpenUnitInterval

from lightning_gradood.cli.plain import SWITCH, plain, refuse_existing

ALARM = 4
"""Exit code where the drift is beyond `--alarm`, or a stream has raised its alarm."""

_SIGNIFICANT = 0.01  # an alarm needs a p-value below it, so that few images raise none by chance


@plain(
    "Exit code 4 if the distance is above --alarm and its p-value below 0.01, or with --sequential if the stream has drifted.",
    new={"nargs": "+", "type": str},
    overwrite=SWITCH,
)
def drift(
    reference: str,
    new: list[str],
    *,
    alarm: float | None = None,
    sequential: str | None = None,
    false_alarm: OpenUnitInterval | None = None,
    figure: str | None = None,
    detector: str | None = None,
    overwrite: bool = False,
) -> int:
    """Compare two tables of scores, or follow a stream of scores.

    Args:
        reference: scores of images as usual: a guard, which has those it is calibrated on, a table written by `score`, or a
            run's scores.parquet.
        new: scores of new images by the same guard, written by `score`; with --sequential any number of tables in their
            order, or - for rows of CSV on standard input.
        alarm: largest distance of the two distributions that is no alarm, in [0, 1).
        sequential: follow a stream whose state is in this JSON file, which is made if it does not exist; tables that are in
            it already are passed over.
        false_alarm: with --sequential, probability of an alarm at any time if nothing drifts; 0.01 by default.
        figure: a PNG file; by default NEW's name with _drift.png.
        detector: whose scores, where a table is a run's scores.parquet: its normal test images.
        overwrite: replace the figure if it exists.
    """
    from lightning_gradood.core import Refusal, atomic_write
    from lightning_gradood.report import DriftStream, drift_report

    if alarm is not None and not 0 <= alarm < 1:
        raise Refusal(f"`--alarm` should be at least 0 and below 1. Got `--alarm {alarm}`. It is a distance.")
    if sequential:
        if alarm is not None or figure:
            raise Refusal("`--sequential` should stand without `--alarm` and `--figure`. Remove them, or --sequential.")
        stream = DriftStream(Path(reference), Path(sequential), false_alarm, detector)
        for line in stream.follow(new):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()  # the stream may go on for long
        return ALARM if stream.test.alarm else 0
    if len(new) > 1 or false_alarm is not None:
        raise Refusal(
            "Several tables, and `--false_alarm`, should stand with `--sequential STATE`. Name a file for the state."
        )
    place = Path(figure or Path(new[0]).with_name(f"{Path(new[0]).stem}_drift.png"))
    refuse_existing("--figure", place, overwrite)
    overall, table, picture = drift_report(Path(reference), Path(new[0]), detector)
    with atomic_write(place, "--figure") as file:
        file.write(picture)
    sys.stdout.write(f"{table}\nfigure: {place}\n")
    if alarm is None or overall.distance <= alarm or overall.p_value >= _SIGNIFICANT:
        return 0
    sys.stdout.write(f"ALARM: the distance {overall.distance:.3f} is above {alarm:g}.\n")
    return ALARM
