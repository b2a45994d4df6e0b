"""Base classes of detectors: what each reads from the network, how it is fitted, how it scores, what it saves."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar, final

import numpy as np
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Component, Refusal
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.perturbations import SyntheticOutlier
from lightning_gradood.probes import Probe
from lightning_gradood.records import SYNTHETIC, Records

Fit = TypeVar("Fit")


class NotFittedError(RuntimeError):
    """A detector was asked for scores or for its state before it was fitted or loaded."""

    def __init__(self, detector: Detector) -> None:
        kind = type(detector).__name__
        super().__init__(
            f"{kind} should be fitted before it scores or is saved. Got one that is not. "
            f"Call {kind}.fit or {kind}.load_state_dict first."
        )


class Detector(Component, ABC):
    """Fits on records, scores records, saves and loads what it has learnt.

    A constructor's parameters are settings; each is an attribute of the same name, so that `arguments` can save them.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in tables, files and W&B keys."""

    @property
    @abstractmethod
    def probes(self) -> Sequence[Probe]:
        """The probes that it reads."""

    @property
    def needs_anomalies(self) -> bool:
        """Whether it is fitted on anomalous records too.

        Where it is not, `fit` looks at normal records alone, and its threshold is a conformal quantile of the scores of
        normal `val` records (`evaluation.conformal_threshold`).
        """
        return True

    @property
    def fewest(self) -> int:
        """Normal `train` records that `fit` takes at least."""
        return 2

    @property
    def outliers(self) -> Sequence[SyntheticOutlier]:
        """Synthetic outliers of normal images that `fit` finds among its records, see `outlier_training_records`."""
        return ()

    def with_label_designs(self, label_designs: Sequence[LabelDesign]) -> Detector:
        """The same detector, reading these label designs where it reads gradients and was given none."""
        return self

    @property
    def scores_are_logits(self) -> bool:
        """Whether a score of 0 means that normal and anomalous are equally likely, as for an MLP's logit."""
        return False

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name, from attributes of the same names."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @abstractmethod
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        """Fit on the rows whose `split` is `train`, select on those whose split is `val`.

        Args:
            records: normal and anomalous records with a `split` column; rows of other splits are never looked at. Where
                `outliers` names some, the synthetic outliers of these kinds are among them.
            seed: fixes everything random.

        Returns:
            One dict per epoch for training curves, with `epoch` and any number of metrics; empty if nothing is trained.
        """

    @abstractmethod
    def score(self, records: Records) -> np.ndarray:
        """Scores float64 [n], any range, higher = more anomalous; a NotFittedError if it has learnt nothing yet."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything `fit` has learnt, as tensors; a NotFittedError if it has learnt nothing yet."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take what `state_dict` of a detector with the same settings returned; scores are then bitwise equal."""

    def _fitted(self, learnt: Fit | None) -> Fit:
        if learnt is None:
            raise NotFittedError(self)
        return learnt


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
    kinds = [f"{SYNTHETIC}{outlier.name}" for outlier in detector.outliers]
    rows = np.isin(records.column("attack").astype(str), kinds)
    rows &= (records.column("split") == "train") & (records.column("linf") > 0)
    if not rows.any():
        raise Refusal(
            f"`records` should hold synthetic outliers in `train` for `{detector.name}`, with one of {kinds} as their "
            "`attack`. Got none. `detect` makes them; in a script, read them with the perturbations of `detector.outliers`."
        )
    return Records(records.table.filter(rows))


def neighbour_rank(k: int | None, records: int, most: int) -> int:
    """Which nearest neighbour is looked at: k if given, else one in 16 of the records, from 1 to `most`."""
    return k if k is not None else min(max(records // 16, 1), most)


def check_neighbour_rank(k: int | None) -> None:
    """Refuse a rank below 1."""
    if k is not None and (not isinstance(k, int) or k < 1):
        raise Refusal(f"`k` should be at least 1. Got `k = {k}`. Leave it out: it then follows the number of images.")


_BLOCK = 32  # rows that are scored together


def score_in_blocks(detector: Detector, records: Records) -> np.ndarray:
    """Scores of a fitted detector, float64 [n], computed in blocks of one size.

    Matrix products of other sizes are summed in another order and differ in the last bit; in blocks an image gets the
    same bits alone, as from a guard, as among thousands.
    """
    number = len(records)
    rows = np.minimum(np.arange(-(-number // _BLOCK) * _BLOCK), number - 1)  # the last one fills the last block
    blocks = (Records(records.table.take(rows[start : start + _BLOCK])) for start in range(0, len(rows), _BLOCK))
    return np.concatenate([np.empty(0), *(detector.score(block) for block in blocks)])[:number]


class FixedDetector(Detector):
    """A formula: nothing is learnt; its threshold is a quantile of normal `val` scores."""

    needs_anomalies = False

    @final
    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        return []

    @final
    @override
    def state_dict(self) -> dict[str, Tensor]:
        return {}

    @final
    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        return
