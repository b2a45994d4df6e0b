"""Several detectors as one, weighted by how well they find synthetic outliers of kinds that they were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.detectors.combined import Combined, EmpiricalTail, FittedCombined, by_rule
from lightning_gradood.detectors.detector import Detector, Fitted, score_in_blocks
from lightning_gradood.metrics import auroc
from lightning_gradood.perturbations import SyntheticOutlier, default_outliers
from lightning_gradood.records import SYNTHETIC, Records

_CLEAR = 2.0  # standard errors by which a detector has to improve on the first
_SHRINKAGE = 0.1  # of weights towards their mean
_LEAST = 0.05  # of the largest weight, below which a weight is 0
_HIGHEST = 12.0  # surprise that weights are learnt on, so that no single image decides


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
