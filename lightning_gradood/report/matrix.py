"""Every source against every other: what a detector that was trained on one makes of the next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_gradood.detectors import Outcome


@dataclass(frozen=True)
class Matrix:
    """AUROC of one detector by source of training and of testing.

    Args:
        detector: its name.
        sources: in the order of rows and columns.
        aurocs: row = trained on, column = tested on, in [0, 1], NaN where there is none, float64 [k, k].
    """

    detector: str
    sources: list[str]
    aurocs: np.ndarray

    @property
    def transfer(self) -> np.ndarray:
        """Mean of each row over the sources it was not trained on, float64 [k]."""
        others = np.where(np.eye(len(self.sources), dtype=bool), np.nan, self.aurocs)
        return np.asarray(np.nanmean(others, axis=1))


def matrices(outcomes: Sequence[Outcome]) -> dict[str, Matrix]:
    """Collect the matrices of all detectors that were trained on one source and tested on another.

    Args:
        outcomes: of all sources and detectors.

    Returns:
        Detector to matrix, in order of first appearance; empty if nothing was transferred.
    """
    detectors = dict.fromkeys(outcome.detector for outcome in outcomes if outcome.transferred)
    return {name: _matrix(name, [outcome for outcome in outcomes if outcome.detector == name]) for name in detectors}


def matrix_table(matrix: Matrix) -> str:
    """Lay a matrix out as plain text.

    Args:
        matrix: AUROCs.

    Returns:
        Lines joined by newlines: a title, sources of testing, a row per source of training, in % with one decimal, and the
        mean of each row over the other sources.
    """
    rows = [["trained on", *matrix.sources, "others"]]
    for source, row, mean in zip(matrix.sources, matrix.aurocs, matrix.transfer, strict=True):
        rows.append([source, *(f"{100 * value:.1f}" for value in [*row, mean])])
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
        for cells in rows
    ]
    title = (
        f"{matrix.detector}: AUROC in %, trained on the row's source, tested on the column's; others = mean but its own"
    )
    return "\n".join([title, *lines])


def _matrix(detector: str, outcomes: Sequence[Outcome]) -> Matrix:
    sources = list(dict.fromkeys(outcome.source for outcome in outcomes))
    aurocs = np.full((len(sources), len(sources)), np.nan)
    for outcome in outcomes:
        aurocs[sources.index(outcome.trained_on), sources.index(outcome.source)] = outcome.metrics["test"]["auroc"]
    return Matrix(detector, sources, aurocs)
