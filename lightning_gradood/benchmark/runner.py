"""Make the calls of a benchmark that have no results yet."""

import shlex
import sys
from collections.abc import Callable, Sequence

from lightning.pytorch.utilities import rank_zero_only

from lightning_gradood.benchmark.commands import Call
from lightning_gradood.benchmark.material import Material
from lightning_gradood.runs import refuse_foreign

_IDENTITY = ("seed_everything", "model", "data", "detection", "ckpt_path")  # what makes results those of one call
RESULTS = "results.json"


def make_calls(calls: Sequence[Call], main: Callable[[list[str]], None]) -> None:
    """Make every call that has no results of the same configuration and classifier; print each command.

    Folders of other configurations are looked for first, so that a refusal comes before an hour's work and not after it.

    Args:
        calls: in order; the first of each experiment gives the classifier.
        main: the program, as a user calls it.

    Raises:
        Refusal: if the folder of a call holds something else.
    """
    for call in calls:
        refuse_foreign(call.folder, call.config, _IDENTITY)
    weights: dict[str, str] = {}
    for number, call in enumerate(calls, start=1):
        done = is_done(call, weights.get(call.experiment))
        _say(f"[{number}/{len(calls)}] {'done before: ' if done else ''}{command_line(call)}")
        if not done:
            main(call.words)
        weights.setdefault(call.experiment, Material.read(call.folder).weights)


def is_done(call: Call, weights: str | None = None) -> bool:
    """Whether a call's results are there.

    Args:
        call: whose configuration is that of its folder, if there is one.
        weights: digest of the classifier's weights that the results must be of; None where any will do.
    """
    if not (call.folder / RESULTS).is_file() or not Material.path(call.folder).is_file():
        return False
    return weights in (None, Material.read(call.folder).weights)


def command_line(call: Call) -> str:
    """The call as it is typed."""
    return f"python -m lightning_gradood {shlex.join(call.words)}"


@rank_zero_only
def _say(line: str) -> None:
    sys.stdout.write(f"\n{line}\n")
    sys.stdout.flush()
