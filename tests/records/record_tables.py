"""Small tables of records for the tests of this room."""

from collections.abc import Sequence

import numpy as np

from lightning_gradood.records import Records

KEY, OTHER = "k" * 64, "o" * 64


def table_of(ids: Sequence[str], *, source: str = "cats", probe: str = "norms", offset: float = 0.0) -> Records:
    """Return records whose value in the first column is the row's number plus `offset`, the second a third of it."""
    first = np.arange(len(ids), dtype=np.float64) + offset
    values = np.stack([first, first / 3], axis=1)
    return Records.build(ids, source=source, values={probe: values}, names={probe: ["w", "b"]})


def ids_of(count: int) -> list[str]:
    """Return `count` ids of a source."""
    return [f"cats/{row:03d}" for row in range(count)]
