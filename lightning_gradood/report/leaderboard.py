"""OpenOOD's leaderboard: its AUROC of each method on the near and the far sources, beside those of a run."""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

COLUMN = "OpenOOD"
_GROUPS = ("near", "far")


@cache
def _published() -> dict[tuple[str, str], dict[str, str]]:
    text = (resources.files("lightning_gradood.report") / "openood_leaderboard.csv").read_text()
    return {(row["benchmark"], row["detector"]): row for row in csv.DictReader(text.splitlines())}


def beside_leaderboard(
    rows: Sequence[Mapping[str, str]], benchmark: str, absent: str
) -> tuple[list[dict[str, str]], list[str]]:
    """Add a column with the leaderboard's numbers behind `AUROC`, and notes of their source, date and of doubts.

    Args:
        rows: of the printed table, text by column; those of the groups `near` and `far` have a number there.
        benchmark: `cifar10`, `cifar100`, `imagenet200` or `imagenet`.
        absent: what stands in the other rows.
    """
    shown, sources, doubts, network = list[dict[str, str]](), dict[str, None](), dict[str, None](), ""
    for row in rows:
        group, number = row["source"], absent
        found = _published().get((benchmark, row["detector"])) if group in _GROUPS else None
        if found:
            number, network = found[group], found["network"]
            sources[f"{found['source']} of {found['date']}"] = None
            if found["disputed"].startswith(f"{group}:"):
                number += " (disputed)"
                doubts[f"Disputed: {found['postprocessor']}, {found['disputed']}."] = None
        items = list(row.items())
        place = list(row).index("AUROC") + 1
        shown.append(dict([*items[:place], (COLUMN, number), *items[place:]]))
    if not sources:
        return [dict(row) for row in rows], []
    note = (
        f"{COLUMN} = AUROC of its leaderboard, cross-entropy training of a {network} (github.com/zjysteven/OpenOOD, branch "
        f"leaderboard, {', '.join(sources)}); ± over three trainings."
    )
    return shown, [note, *doubts]
