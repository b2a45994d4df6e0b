"""The records that one anomalous source's detectors are fitted and measured on."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from lightning_gradood.errors import Refusal
from lightning_gradood.records import NORMAL, SPLITS, Records


def pool_of(
    records: Mapping[str, Records],
    source: str,
    noise: str | None = None,
    keep: Literal["all", "successful"] = "all",
) -> Records:
    """Put the normal and the anomalous side of one source together.

    Args:
        records: by source, with their splits.
        source: the anomalous one.
        noise: the source of the attack's noise control, which joins the normal side.
        keep: `successful`, for an attack, leaves on both sides only images that were classified correctly when clean
            and otherwise when attacked.

    Raises:
        Refusal: if too few attacks succeeded to fill every split.

    Reference:
        Lee et al. 2018, section 3 and their code, which keeps clean, noisy and adversarial versions of the same images.
    """
    sides = [records[NORMAL], *([records[noise]] if noise else []), records[source]]
    if keep == "successful":
        fooled = _fooled(records[NORMAL], records[source])
        _refuse_too_few(fooled, records[source], source)
        sides = [side.from_origins(fooled) for side in sides]
    return Records.concatenate(sides)


def normal_side(records: Records) -> Records:
    """Keep the normal records: what a label-free detector may look at."""
    return Records(records.table.filter(records.anomalous == 0))


def _fooled(normal: Records, attacked: Records) -> set[str]:
    """Origins that were classified correctly, or have no label, and whose attack succeeded."""
    labels, predictions = normal.column("label"), normal.column("prediction")
    right = set(normal.column("id")[(labels < 0) | (labels == predictions)])
    return right & set(attacked.column("origin_id")[attacked.column("success").astype(bool)])


def _refuse_too_few(fooled: set[str], attacked: Records, source: str) -> None:
    rows = np.isin(attacked.column("origin_id").astype(str), sorted(fooled))
    counts = {split: int((rows & (attacked.column("split") == split)).sum()) for split in SPLITS}
    if not all(counts.values()):
        raise Refusal(
            f"`data.keep = successful` should leave images of `{source}` in every split. Got {int(rows.sum())} of "
            f"{len(attacked)} that were classified correctly and then misled: {counts}. Use `--data.keep all`, more "
            "images, or a stronger attack."
        )
