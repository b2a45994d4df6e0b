"""Small tables of records for the tests of this room."""

from collections.abc import Sequence

import numpy as np

from lightning_gradood.records import Records

# Values that float32 or a text format would change.
EXACT = np.array([0.1, 1 / 3, np.pi * 1e-300, 5e-324, -0.0, 1.7976931348623157e308])


def table_of(ids: Sequence[str], *, source: str = "cats", probe: str = "norms", offset: float = 0.0) -> Records:
    """Return records whose value in the first column is the row's number plus `offset`, the second a third of it."""
    first = np.arange(len(ids), dtype=np.float64) + offset
    values = np.stack([first, first / 3], axis=1)
    return Records.build(ids, source=source, values={probe: values}, names={probe: ["w", "b"]})


def ids_of(count: int, source: str = "cats") -> list[str]:
    """Return `count` ids of a source."""
    return [f"{source}/{row:03d}" for row in range(count)]
