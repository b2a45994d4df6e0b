"""Several detectors as one: their p-values on normal images, combined; or the best of them on `val`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Component, Refusal
from lightning_gradood.detectors.detector import Detector, Fitted, normal_training_records, score_in_blocks
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.metrics import auroc
from lightning_gradood.perturbations import SyntheticOutlier
from lightning_gradood.probes import Probe
from lightning_gradood.records import SYNTHETIC, Records, normal_records

Rule = Literal["fisher", "squares"]
Values = TypeVar("Values", np.ndarray, Tensor)
_TAIL = 0.9  # quantile above which the distribution of normal scores is continued by an exponential


@dataclass(frozen=True, eq=False)
class EmpiricalTail(Component):
    """One-sided p-values of scores against those of normal images that were not fitted on, float64 [n].

    Between two of them log p is a straight line, so that rounding moves no score by a rank. Above their 90 % quantile, an
    exponential tail, its scale the mean excess, goes on where ranks end.
    """

    normal: np.ndarray

    @cached_property
    def exponential(self) -> tuple[float, float]:
        """Where the exponential tail starts, and its scale."""
        start = float(np.quantile(self.normal, _TAIL))
        above = self.normal[self.normal > start] - start
        smallest = 1e-6 * (float(np.ptp(self.normal)) or 1.0)
        return start, max(float(above.mean()) if len(above) else 0.0, smallest)

    @cached_property
    def _ranks(self) -> tuple[Tensor, Tensor]:
        """Scores up to where the tail starts, ascending, and −log p of each: the smallest normal one has p = 1."""
        start, scale = self.exponential
        below, number = self.normal[self.normal < start], len(self.normal) + 1
        p_values = np.r_[1.0, 1 - np.arange(len(below)) / number, 1 - _TAIL]
        places = np.r_[(below[0] if len(below) else start) - scale, below, start]
        return torch.from_numpy(places), torch.from_numpy(-np.log(np.maximum(p_values, 1 - _TAIL)))

    def surprise(self, scores: np.ndarray) -> np.ndarray:
        """−log p of each score, float64 [n], at least 0."""
        return np.asarray(self.tensor_surprise(torch.from_numpy(scores)).numpy())

    def tensor_surprise(self, scores: Tensor) -> Tensor:
        """As `surprise`, of tensors."""
        (start, scale), (places, values) = self.exponential, self._ranks
        if torch.compiler.is_compiling():  # ONNX has no search
            right = (places < scores[:, None]).sum(dim=1)
        else:
            right = torch.searchsorted(places, scores.detach().contiguous())
        right = right.clamp(1, len(places) - 1)
        low, high = places[right - 1], places[right]
        share = ((scores - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
        ranks = values[right - 1] + share * (values[right] - values[right - 1])
        return torch.where(scores > start, -math.log(1.0 - _TAIL) + (scores - start) / scale, ranks)


class OfSeveral(Detector):
    """A detector that is made of others, and reads what they read."""

    detectors: Sequence[Detector]

    @property
    @override
    def needs_head(self) -> bool:
        return any(one.needs_head for one in self.detectors)

    @property
    @override
    def fewest(self) -> int:
        return max(one.fewest for one in self.detectors)

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return list({probe.name: probe for one in self.detectors for probe in one.probes}.values())

    @property
    @override
    def needed_outliers(self) -> Sequence[SyntheticOutlier]:
        return list({outlier.name: outlier for one in self.detectors for outlier in one.needed_outliers}.values())

    @override
    def with_label_designs(self, label_designs: Sequence[LabelDesign]) -> Self:
        return replace(self, detectors=[one.with_label_designs(label_designs) for one in self.detectors])  # type: ignore[type-var]  # settings are dataclasses


@dataclass(frozen=True)
class Combined(OfSeveral):
    """Combine detectors that need no anomalies by their one-sided p-values on normal images.

    Normal `train` images are divided into folds. Each detector is fitted on all folds but one and scores that one, in
    turn, so that its p-values are of images that it was not fitted on; then it is fitted on all of them.

    Args:
        detectors: at least two, with different names, none of which needs anomalies.
        rule: `fisher`, the sum of −log p; `squares`, of their squares, which follows the most surprised detector more.
        folds: into which normal `train` images are divided, 2 or more.

    Reference:
        Fisher 1932 for the sum of logarithms.
    """

    detectors: Sequence[Detector]
    rule: Rule = "fisher"
    folds: int = 5
    name: str = "combined"
    needs_anomalies: ClassVar[bool] = False
    _least: ClassVar[int] = 2

    def __post_init__(self) -> None:
        names = [one.name for one in self.detectors]
        needy = [one.name for one in self.detectors if one.needs_anomalies]
        if len(names) < self._least or len(set(names)) < len(names) or needy:
            raise Refusal(
                f"`detectors` should be {('one', 'two')[self._least - 1]} or more with different names that need no anomalies. "
                f"Got {names}{f', of which {needy} need some' if needy else ''}. Name others."
            )
        if self.folds < 2:
            raise Refusal(f"`folds` should be 2 or more. Got `folds = {self.folds}`. 5 are usual.")

    @property
    @override
    def fewest(self) -> int:
        # enough for each detector when one fold is kept from it
        return max(20, self.folds, math.ceil(super().fewest * self.folds / (self.folds - 1)))

    @override
    def parts(self, fitted: Fitted, records: Records) -> dict[str, np.ndarray]:
        parts = fitted.parts(TensorReadings.of(records)).numpy()  # type: ignore[attr-defined]
        return dict(zip([one.name for one in self.detectors], parts, strict=True))

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        fold_of, synthetic = self._folds(records, seed)
        train = (records.column("split") == "train") & ((records.anomalous == 0) | synthetic)
        members, tails = list[Fitted](), list[EmpiricalTail]()
        for one in self.detectors:
            # each gets the columns it reads: with a thousand classes copies of all fill the memory
            rows = train if one.needed_outliers else train & ~synthetic
            read, fold = records.only([probe.name for probe in one.probes]).keep(rows), fold_of[rows]
            scores = list[np.ndarray]()
            for number, fitted in enumerate(one.fit_each(read, (fold != part for part in range(self.folds)), seed)):
                scores.append(score_in_blocks(fitted, normal_records(read.keep(fold == number))))
            tails.append(EmpiricalTail(np.sort(np.concatenate(scores))))
            members.append(one.fit(read, seed))
        return FittedCombined(self.rule, members, tails, np.ones(len(members)))

    def _folds(self, records: Records, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The fold of each record, int64 [n], an outlier in that of its image; and which are synthetic outliers, bool [n]."""
        plain = normal_training_records(records.only([]), self.fewest)
        folds = dict(zip(plain.ids, np.random.default_rng(seed).permutation(len(plain)) % self.folds, strict=True))
        fold_of = np.array([folds.get(origin, -1) for origin in records.column("origin_id")])
        return fold_of, np.char.startswith(records.column("attack").astype(str), SYNTHETIC)


@dataclass(frozen=True, eq=False)
class FittedCombined(TensorFitted):
    """What each detector has learnt, its scores of normal images that it was not fitted on, and its weight, float64 [m]."""

    rule: Rule
    members: Sequence[Fitted]
    tails: Sequence[EmpiricalTail]
    weights: np.ndarray
    names: Sequence[str] = ()
    remark: str = ""

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return self.parts(read).sum(dim=0)

    def parts(self, read: TensorReadings) -> Tensor:
        """What each member adds to the score, float64 [members, n]."""
        pairs = zip(self.members, self.tails, strict=True)
        surprises = torch.stack([tail.tensor_surprise(read.score(one)) for one, tail in pairs])
        return torch.from_numpy(self.weights)[:, None] * by_rule(surprises, self.rule)


def by_rule(surprises: Values, rule: Rule) -> Values:
    """What is added up of surprises −log p, of any shape: these, or their squares."""
    return surprises if rule == "fisher" else surprises * surprises


@dataclass(frozen=True)
class Tuned(OfSeveral):
    """The one of several detectors with the highest AUROC on `val`, the first of equals; what it learns is that one's.

    For methods whose settings the field tunes on anomalous images, such as `percentile` of `ASH`: list a detector for
    each value, `Tuned([ASH(65), ASH(80), ASH(95)], name="ash_tuned")`.

    Args:
        detectors: one or more; their names do not matter.
    """

    detectors: Sequence[Detector]
    name: str = "tuned"

    @property
    @override
    def learns_from_normal(self) -> bool:
        return not any(one.needs_anomalies for one in self.detectors) and not self.needed_outliers

    @override
    def fit(self, records: Records, seed: int) -> Fitted:
        val, fits = records.where(split="val"), [one.fit(records, seed) for one in self.detectors]
        return max(fits, key=lambda one: auroc(one.score(val), val.anomalous))
