"""Small tables of records for the tests of this room."""

import numpy as np

from lightning_gradood.records import Records

KEY, OTHER = "k" * 64, "o" * 64


def table_of(ids, source="cats", offset=0.0):
    """Return records whose value in the first column is the row's number plus `offset`, the second a third of it."""
    first = np.arange(len(ids), dtype=np.float64) + offset
    values = np.stack([first, first / 3], axis=1)
    return Records.build(ids, source=source, values={"norms": values}, names={"norms": ["w", "b"]})


def ids_of(count):
    return [f"cats/{row:03d}" for row in range(count)]
