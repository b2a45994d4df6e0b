"""Several detectors as one: their p-values combined, with weights that synthetic outliers decide; or the best on `val`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, Self, TypeVar

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Component, Refusal, give_back_memory
from lightning_gradood.detectors.detector import Detector, Fitted, normal_training_records, score_in_blocks
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.metrics import auroc
from lightning_gradood.perturbations import SyntheticOutlier, default_outliers
from lightning_gradood.probes import Probe
from lightning_gradood.records import SYNTHETIC, Records, normal_records

Rule = Literal["fisher", "squares"]
Values = TypeVar("Values", np.ndarray, Tensor)
_TAIL = 0.9  # quantile above which the distribution of normal scores is continued by an exponential
_CLEAR = 2.0  # standard errors by which a detector has to improve on the first
_SHRINKAGE = 0.1  # of weights towards their mean
_LEAST = 0.05  # of the largest weight, below which a weight is 0
_HIGHEST = 12.0  # surprise that weights are learnt on, so that no single image decides


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
class WeightedParts(Combined):
    """Combine detectors as `Combined` does, with weights that synthetic outliers decide, so that poor ones get none.

    For each fold of normal `train` images and each half of the kinds of synthetic outliers, the detectors are fitted
    without either, and score the fold's normal images and its outliers of that half. A detector that does not clearly
    improve on the first, which should be a simple one such as `Baseline`, is left out: the mean AUROC over the kinds of
    both together has to exceed that of the first alone by two standard errors over the folds. The others' weights are
    those of a logistic regression on these scores' −log p, at least 0, every kind weighing the same, shrunk towards
    equal ones. What is saved reads the probes of the detectors that have a weight.

    Reference:
        Wolpert 1992, "Stacked Generalization"; Breiman 1996, "Stacked Regressions", for weights that are not negative.
    """

    name: str = "weighted_parts"
    _least: ClassVar[int] = 1

    @property
    @override
    def needed_outliers(self) -> Sequence[SyntheticOutlier]:
        return super().needed_outliers or default_outliers()

    @override
    def fit(self, records: Records, seed: int) -> FittedCombined:
        fold_of, _ = self._folds(records, seed)
        kinds = [f"{SYNTHETIC}{one.name}" for one in self.needed_outliers]
        attack = records.column("attack").astype(str)
        outliers = np.isin(attack, kinds) & (records.column("linf") > 0)
        rows = (records.column("split") == "train") & (fold_of >= 0) & ((records.anomalous == 0) | outliers)
        kind = np.array([kinds.index(name) if name in kinds else -1 for name in attack[rows]])
        seen = _Seen(fold_of[rows], kind)
        members, tails, surprises = list[Fitted](), list[EmpiricalTail](), list[np.ndarray]()
        for one in self.detectors:
            read = records.only([probe.name for probe in one.probes]).keep(rows)
            scores = seen.scores(one, read, seed)
            own = [EmpiricalTail(np.sort(part[kind < 0])) for part in scores]
            surprises.append(np.stack([tail.surprise(part) for tail, part in zip(own[1:], scores[1:], strict=True)]))
            tails.append(own[0])
            members.append(one.fit(read if one.needed_outliers else read.keep(kind < 0), seed))
            give_back_memory()  # the next one takes blocks of other sizes
        weights, remark = seen.weights(by_rule(np.stack(surprises), self.rule), [one.name for one in self.detectors])
        used = np.flatnonzero(weights).tolist()
        return FittedCombined(
            self.rule,
            members=[members[place] for place in used],
            tails=[tails[place] for place in used],
            weights=weights[used],
            names=[self.detectors[place].name for place in used],
            remark=f"`{self.name}` {remark}",
        )

    @override
    def kept(self, fitted: Fitted) -> Detector:
        names = fitted.names if isinstance(fitted, FittedCombined) else ()
        return replace(self, detectors=[one for one in self.detectors if one.name in names])


@dataclass(frozen=True, eq=False)
class _Seen:
    """Which images a fit may see: the `fold` of each row, int [n], and its `kind` of synthetic outlier, −1 for none."""

    fold: np.ndarray
    kind: np.ndarray

    def scores(self, one: Detector, records: Records, seed: int) -> np.ndarray:
        """Scores by fits that have not seen a row's fold, the last two nor its half of the kinds; 0 elsewhere. [3, n]."""
        found, normal = np.zeros((3, len(self.fold))), self.kind < 0
        halves, allowed = ((-1, 0, 1), True) if one.needed_outliers else ((-1,), normal)
        parts = [(self.fold == fold, half) for fold in np.unique(self.fold) for half in halves]
        several = (~here & allowed & (normal | (self.kind % 2 != half)) for here, half in parts)
        for fitted, (here, half) in zip(one.fit_each(records, several, seed), parts, strict=True):
            rows = here & (normal | (self.kind % 2 == half)) if one.needed_outliers else here
            found[half + 1, rows] = score_in_blocks(fitted, records.keep(rows))
        return found if len(halves) > 1 else np.repeat(found[:1], 3, axis=0)

    def aurocs(self, values: np.ndarray) -> np.ndarray:
        """Mean AUROC over the kinds for each fold, of values [2, n] of fits without the even, or odd, kinds."""
        found = []
        for fold in np.unique(self.fold):
            here, parts = self.fold == fold, []
            for kind in np.unique(self.kind[here & (self.kind >= 0)]):
                rows = here & ((self.kind < 0) | (self.kind == kind))
                parts.append(auroc(values[kind % 2, rows], self.kind[rows] >= 0))
            found.append(np.mean(parts))
        return np.array(found)

    def weights(self, values: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, str]:
        """Weights float64 [m] for values [m, 2, n], which are 0 or sum to their number, and what was done, in words."""
        first = self.aurocs(values[0])
        gains = np.array([self.aurocs(values[0] + one) - first for one in values[1:]]).reshape(-1, len(first))
        errors = gains.std(axis=1, ddof=1) / np.sqrt(len(first))
        taken = [0, *(np.flatnonzero(gains.mean(axis=1) > _CLEAR * errors) + 1)]
        found = np.zeros(len(values))
        found[taken] = self._stacked(values[taken])
        found[found < _LEAST * found.max()] = 0
        found *= np.count_nonzero(found) / found.sum()
        together = self.aurocs(np.tensordot(found, values, 1))
        weighed = ", ".join(f"{name} {one:.2f}" for name, one in zip(names, found, strict=True) if one)
        left = ", ".join(name for name, one in zip(names, found, strict=True) if not one)
        return found, (
            f"weighs {weighed}: of synthetic outliers of kinds kept apart that has AUROC {100 * together.mean():.1f} %, "
            f"{names[0]} alone {100 * first.mean():.1f} %."
            + (f" Left out, as they add nothing clear: {left}." if left else "")
        )

    def _stacked(self, values: np.ndarray) -> np.ndarray:
        """Coefficients ≥ 0 of a logistic regression on values [m, 2, n], float64 [m]; kinds weigh the same, as do both sides."""
        columns, labels, shares = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
        kinds = np.unique(self.kind[self.kind >= 0])
        for half, rows, share in [(0, self.kind < 0, 0.25), (1, self.kind < 0, 0.25)] + [
            (kind % 2, self.kind == kind, 0.5 / len(kinds)) for kind in kinds
        ]:
            columns.append(np.minimum(values[:, half, rows], _HIGHEST))
            labels.append(np.where(self.kind[rows] >= 0, 1.0, -1.0))
            shares.append(np.full(rows.sum(), share / rows.sum()))
        columns_, sign, weight = np.concatenate(columns, axis=1), np.concatenate(labels), np.concatenate(shares)

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            margin = sign * (parameters[0] + parameters[1:] @ columns_)
            slope = -sign * weight * expit(-margin)
            uneven = parameters[1:] - parameters[1:].mean()
            total = weight @ np.logaddexp(0, -margin) + _SHRINKAGE * np.square(uneven).sum()
            return float(total), np.r_[slope.sum(), columns_ @ slope + 2 * _SHRINKAGE * uneven]

        start, bounds = np.r_[-1.0, np.full(len(values), 0.5)], [(None, None), *[(0, None)] * len(values)]
        return np.asarray(minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x[1:])


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
