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
    tables={"nargs": "+", "type": str},
    overwrite=SWITCH,
)
def drift(
    tables: list[str],
    *,
    guard: str | None = None,
    alarm: float | None = None,
    sequential: str | None = None,
    false_alarm: OpenUnitInterval | None = None,
    figure: str | None = None,
    overwrite: bool = False,
) -> int:
    """Compare the scores of new images with those of usual images, or follow a stream of scores.

    Args:
        tables: scores of new images, written by `score`; without --guard those of usual images come first; with
            --sequential any number in their order, or - for rows of CSV on standard input.
        guard: folder of the guard that has scored them, or of its run: usual images are those it is calibrated on.
        alarm: largest distance of the two distributions that is no alarm, in [0, 1).
        sequential: follow a stream whose state is in this JSON file, which is made if it does not exist; tables that are in
            it already are passed over.
        false_alarm: with --sequential, probability of an alarm at any time if nothing drifts; 0.01 by default.
        figure: a PNG file for both distributions, or with --sequential for the evidence until now.
        overwrite: replace the figure if it exists.
    """
    from lightning_gradood.core import Refusal, atomic_write
    from lightning_gradood.report import DriftStream, ScoredImages, drift_report, figure_bytes

    if alarm is not None and not 0 <= alarm < 1:
        raise Refusal(f"`--alarm` should be at least 0 and below 1, as it is a distance. Got `--alarm {alarm}`.")
    if not (new := tables if guard else tables[1:]):
        raise Refusal(f"`drift` should have usual scores to compare with. Got {tables[0]} alone. Add --guard GUARD.")
    if figure:
        refuse_existing("--figure", Path(figure), overwrite)
    usual = ScoredImages.of_guard(Path(guard)) if guard else ScoredImages.of_table(Path(tables[0]))
    if sequential:
        if alarm is not None:
            raise Refusal("`--sequential` should stand without `--alarm`. Remove it, or --sequential.")
        stream = DriftStream(usual, Path(sequential), false_alarm)
        for line in stream.follow(new):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()  # the stream may go on for long
        raised = stream.test.alarm > 0
    else:
        if len(new) > 1 or false_alarm is not None:
            raise Refusal("Several tables, and `--false_alarm`, should stand with `--sequential STATE`. Name its file.")
        overall, table, picture = drift_report(usual, ScoredImages.of_table(Path(new[0])))
        sys.stdout.write(f"{table}\n")
        raised = alarm is not None and overall.distance > alarm and overall.p_value < _SIGNIFICANT
        if raised:
            sys.stdout.write(f"ALARM: the distance {overall.distance:.3f} is above {alarm:g}.\n")
    if figure:
        with atomic_write(Path(figure), "--figure") as file:
            file.write(figure_bytes(stream.figure() if sequential else picture))
        sys.stdout.write(f"figure: {figure}\n")
    return ALARM if raised else 0
