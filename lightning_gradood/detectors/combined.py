"""Several detectors as one: their p-values on normal images, combined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal
from lightning_gradood.detectors.detector import Detector, normal_training_records
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.perturbations import SyntheticOutlier
from lightning_gradood.probes import Probe
from lightning_gradood.records import SYNTHETIC, Records, normal_records

Rule = Literal["fisher", "squares", "cauchy"]
_MOST_FOLDS = 1000  # each detector is fitted as often
_TAIL = 0.9  # quantile above which the distribution of normal scores is continued by an exponential


class EmpiricalTail:
    """One-sided p-values of scores against those of normal images that were not fitted on, ascending, float64 [n].

    Above their 90 % quantile, an exponential tail, its scale the mean excess, goes on where ranks end.
    """

    def __init__(self, normal: np.ndarray) -> None:
        self.normal = normal
        self._start = float(np.quantile(normal, _TAIL))
        above = normal[normal > self._start] - self._start
        spread = float(np.ptp(normal)) or 1.0
        self._excess = max(float(above.mean()) if len(above) else 0.0, 1e-6 * spread)

    def surprise(self, scores: np.ndarray) -> np.ndarray:
        """−log p of each score, float64 [n], at least 0."""
        count = len(self.normal)
        at_least = count - np.searchsorted(self.normal, scores, side="left")
        p_values = (1.0 + at_least) / (count + 1.0)
        tail = -np.log(1.0 - _TAIL) + (scores - self._start) / self._excess
        return np.asarray(np.where(scores > self._start, tail, -np.log(np.maximum(p_values, 1.0 - _TAIL))))


class Combined(Detector):
    """Combine detectors that need no anomalies by their p-values on normal images.

    Normal `train` images are divided into folds. Each detector is fitted on all folds but one and scores that one, in
    turn, so that its p-values are of images that it was not fitted on; then it is fitted on all of them. High scores
    are anomalous, so p-values are one-sided.

    Args:
        detectors: at least two, with different names, none of which needs anomalies.
        rule: `fisher`, the sum of −log p; `squares`, of their squares, which follows the most surprised detector more;
            `cauchy`, the logarithm of 1 + Σ 1/p, which the smallest p-values decide (cot(π p) is 1/(π p) for small p).
        folds: into which normal `train` images are divided, 2 to 1000.

    Reference:
        Fisher 1932 for the sum of logarithms; Liu and Xie 2020 for Cauchy's.
    """

    name = "combined"
    needs_anomalies = False

    def __init__(
        self, detectors: list[Detector], rule: Rule = "fisher", folds: int = 5, name: str = "combined"
    ) -> None:
        names = [one.name for one in detectors]
        needy = [one.name for one in detectors if one.needs_anomalies]
        if len(detectors) < 2 or len(set(names)) < len(names) or needy:
            raise Refusal(
                "`detectors` should be two or more with different names that need no anomalies. "
                f"Got {names}{f', of which {needy} need some' if needy else ''}. Name others."
            )
        if rule not in get_args(Rule) or not 2 <= folds <= _MOST_FOLDS:
            raise Refusal(
                f"`rule` should be one of {', '.join(get_args(Rule))}, and `folds` from 2 to {_MOST_FOLDS}. "
                f"Got `rule = {rule}` and `folds = {folds}`."
            )
        self.detectors, self.rule, self.folds, self.name = list(detectors), rule, folds, name
        self._tails: list[EmpiricalTail] | None = None

    @property
    @override
    def fewest(self) -> int:
        # enough for each detector when one fold is kept from it
        needed = max(one.fewest for one in self.detectors)
        return max(20, self.folds, math.ceil(needed * self.folds / (self.folds - 1)))

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return list({probe.name: probe for one in self.detectors for probe in one.probes}.values())

    @property
    @override
    def outliers(self) -> Sequence[SyntheticOutlier]:
        return list({outlier.name: outlier for one in self.detectors for outlier in one.outliers}.values())

    @override
    def with_label_designs(self, label_designs: Sequence[LabelDesign]) -> Combined:
        members = [one.with_label_designs(label_designs) for one in self.detectors]
        return type(self)(**self.arguments | {"detectors": members})

    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        plain = normal_training_records(records.only([]), self.fewest)
        folds = dict(zip(plain.ids, np.random.default_rng(seed).permutation(len(plain)) % self.folds, strict=True))
        train, anomalous = records.column("split") == "train", records.anomalous == 1
        synthetic = np.char.startswith(records.column("attack").astype(str), SYNTHETIC)
        self._tails = []
        # each gets the columns it reads: with a thousand classes copies of all fill the memory
        for one in self.detectors:
            read = records.only([probe.name for probe in one.probes])
            own = Records(read.table.filter(train & (~anomalous | (synthetic if one.outliers else False))))
            # an outlier is in the fold of its image
            fold_of = np.array([folds.get(origin, -1) for origin in own.column("origin_id")])
            self._tails.append(self._tail(one, own, fold_of, seed))
            one.fit(own, seed)
        return []

    @override
    def score(self, records: Records) -> np.ndarray:
        pairs = zip(self.detectors, self._fitted(self._tails), strict=True)
        surprises = np.stack([tail.surprise(one.score(records)) for one, tail in pairs])
        if self.rule == "cauchy":
            return np.asarray(np.log1p(np.exp(np.minimum(surprises, 600.0)).sum(axis=0)))
        return np.asarray((surprises if self.rule == "fisher" else np.square(surprises)).sum(axis=0))

    @override
    def state_dict(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for one, tail in zip(self.detectors, self._fitted(self._tails), strict=True):
            found |= {f"{one.name}/{name}": tensor for name, tensor in one.state_dict().items()}
            found[f"{one.name}|normal"] = torch.from_numpy(tail.normal.copy())
        return found

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for one in self.detectors:
            prefix = f"{one.name}/"
            one.load_state_dict(
                {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}
            )
        self._tails = [EmpiricalTail(state[f"{one.name}|normal"].numpy()) for one in self.detectors]

    def _tail(self, detector: Detector, records: Records, fold_of: np.ndarray, seed: int) -> EmpiricalTail:
        scores: list[Any] = []
        for fold in range(self.folds):
            detector.fit(Records(records.table.filter(fold_of != fold)), seed)
            scores.append(detector.score(normal_records(Records(records.table.filter(fold_of == fold)))))
        return EmpiricalTail(np.sort(np.concatenate(scores)))
