"""Base classes: a detector says what it reads and how it is fitted; what it has learnt scores records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self, final

import numpy as np
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Component, Refusal
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.perturbations import SyntheticOutlier
from lightning_gradood.probes import Probe
from lightning_gradood.records import SYNTHETIC, Records


class Fitted(Component, ABC):
    """What a detector has learnt: a frozen dataclass of arrays, plain values, components and other `Fitted`s.

    It is saved field by field, so that what is saved is what is scored.
    """

    @property
    def curves(self) -> Sequence[Mapping[str, float]]:
        """Training curves: for each epoch `epoch` and any number of metrics; empty if nothing is trained."""
        return ()

    @abstractmethod
    def score(self, records: Records) -> np.ndarray:
        """Scores float64 [n], any range, higher = more anomalous."""


class Detector(Component, ABC):
    """Fits on records; its settings are the fields of a frozen dataclass."""

    needs_anomalies: ClassVar[bool] = True
    """Whether it is fitted on anomalous records too.

    Where it is not, `fit` looks at normal records alone, and its threshold is a conformal quantile of the scores of
    normal `val` records (`evaluation.conformal_threshold`).
    """

    scores_are_logits: ClassVar[bool] = False
    """Whether a score of 0 means that normal and anomalous are equally likely, as for an MLP's logit."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in tables, files and W&B keys."""

    @property
    @abstractmethod
    def probes(self) -> Sequence[Probe]:
        """The probes that it reads."""

    @property
    def fewest(self) -> int:
        """Normal `train` records that `fit` takes at least."""
        return 2

    @property
    def needed_outliers(self) -> Sequence[SyntheticOutlier]:
        """Synthetic outliers of normal images that `fit` finds among its records, see `outlier_training_records`."""
        return ()

    def with_label_designs(self, label_designs: Sequence[LabelDesign]) -> Detector:
        """The same detector, reading these label designs where it reads gradients and was given none."""
        return self

    @abstractmethod
    def fit(self, records: Records, seed: int) -> Fitted:
        """Fit on the rows whose `split` is `train`, select on those whose split is `val`.

        Args:
            records: normal and anomalous records with a `split` column; rows of other splits are never looked at. Where
                `needed_outliers` names some, the synthetic outliers of these kinds are among them.
            seed: fixes everything random.
        """


class FixedDetector(Detector, Fitted):
    """A formula, which learns nothing; its threshold is a quantile of normal `val` scores."""

    needs_anomalies: ClassVar[bool] = False

    @final
    @override
    def fit(self, records: Records, seed: int) -> Self:
        return self


def normal_training_records(records: Records, fewest: int = 2) -> Records:
    """The records that a one-class detector is fitted on; a Refusal if there are fewer than `fewest`."""
    rows = (records.column("split") == "train") & (records.anomalous == 0)
    if rows.sum() < fewest:
        raise Refusal(
            f"`records` should hold at least {fewest} normal ones in `train` for this detector. Got {rows.sum()}. "
            "Take more normal images."
        )
    return Records(records.table.filter(rows))


def outlier_training_records(records: Records, detector: Detector) -> Records:
    """The synthetic outliers that a detector is fitted on: of its kinds, and unlike the image they were made of.

    A Refusal if there are none.
    """
    kinds = [f"{SYNTHETIC}{outlier.name}" for outlier in detector.needed_outliers]
    rows = np.isin(records.column("attack").astype(str), kinds)
    rows &= (records.column("split") == "train") & (records.column("linf") > 0)
    if not rows.any():
        raise Refusal(
            f"`records` should hold synthetic outliers in `train` for `{detector.name}`, with one of {kinds} as their "
            "`attack`. Got none. `detect` makes them; in a script, read them with `detector.needed_outliers` as perturbations."
        )
    return Records(records.table.filter(rows))


_BLOCK = 32  # rows that are scored together


def score_in_blocks(fitted: Fitted, records: Records) -> np.ndarray:
    """Scores, float64 [n], computed in blocks of one size.

    Matrix products of other sizes are summed in another order and differ in the last bit; in blocks an image gets the
    same bits alone, as from a guard, as among thousands.
    """
    number = len(records)
    rows = np.minimum(np.arange(-(-number // _BLOCK) * _BLOCK), number - 1)  # the last one fills the last block
    blocks = (Records(records.table.take(rows[start : start + _BLOCK])) for start in range(0, len(rows), _BLOCK))
    return np.concatenate([np.empty(0), *(fitted.score(block) for block in blocks)])[:number]
