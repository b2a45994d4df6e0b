"""A detector for anomalies of any kind beside regressions on known ones, for what a guard has met since it was made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import OpenUnitInterval, PositiveFloat, Refusal
from lightning_gradood.detectors.combined import EmpiricalTail, OfSeveral
from lightning_gradood.detectors.detector import Detector, Fitted, score_in_blocks
from lightning_gradood.detectors.logistic import Logistic, fit_balanced_logistic
from lightning_gradood.detectors.mlp import numbers
from lightning_gradood.detectors.tensor_scores import TensorFitted, TensorReadings
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.probes import LogitsProbe, Probe
from lightning_gradood.records import SYNTHETIC, Records, normal_records

_FOLDS = 5


@dataclass(frozen=True)
class KnownAnomalies(OfSeveral):
    """The most surprised of several: a detector for anomalies of any kind, and a logistic regression on each known source.

    All scores become −log p-values of normal images that were not fitted on. Three quarters of the false alarms are left to
    the first, so that unknown anomalies are still found: each p-value is divided by its share.

    Args:
        earlier: the detector for anomalies of any kind; the regressions read what it reads.
        strength: C of the logistic regressions.
        share: of the false alarms, those that the regressions may raise together.

    Reference:
        Genovese, Roeder and Wasserman 2006, "False discovery control with p-value weighting", for the shares.
    """

    earlier: Detector
    strength: PositiveFloat = 0.1
    share: OpenUnitInterval = 0.25
    name: str = "known_anomalies"

    @property
    def detectors(self) -> Sequence[Detector]:  # type: ignore[override]  # no setting of its own
        """The earlier one alone."""
        return [self.earlier]

    @property
    @override
    def fewest(self) -> int:
        return max(super().fewest, _FOLDS)

    @override
    def with_label_designs(self, label_designs: Sequence[LabelDesign]) -> KnownAnomalies:
        return replace(self, earlier=self.earlier.with_label_designs(label_designs))

    @override
    def kept(self, fitted: Fitted) -> Detector:
        return replace(self, earlier=self.earlier.kept(fitted.earlier))  # type: ignore[attr-defined]

    @override
    def parts(self, fitted: Fitted, records: Records) -> dict[str, np.ndarray]:
        names = [self.earlier.name, *fitted.known]  # type: ignore[attr-defined]
        return dict(zip(names, fitted.surprises(records), strict=True))  # type: ignore[attr-defined]

    @override
    def fit(self, records: Records, seed: int) -> FittedKnownAnomalies:
        earlier = self.earlier.fit(records, seed)
        own = records.keep(~np.char.startswith(records.column("attack").astype(str), SYNTHETIC))
        return self.beside(earlier, own, self.held_out(own.where(split="train"), seed))

    def beside(self, earlier: Fitted, records: Records, held_out: np.ndarray) -> FittedKnownAnomalies:
        """Fit the regressions on `train`, beside an earlier fit that has seen no normal image of `val`.

        Args:
            records: `train`, normal and anomalous, and normal ones of `val`.
            held_out: logits of `train` by regressions that were not fitted on them, see `held_out`.
        """
        train, val = records.where(split="train"), normal_records(records.where(split="val"))
        values, kinds = readings(train, self.probes), _kinds(train)
        names = _names(kinds)
        scores = [score_in_blocks(earlier, val), *held_out[:, kinds == ""]]
        shares = [1 - self.share, *(self.share / len(names) for _ in names)]
        tails = [EmpiricalTail(np.sort(one)) for one in scores]
        models = self._regressions(values, kinds, names)
        return FittedKnownAnomalies(earlier, list(self.probes), names, models, tails, np.array(shares))

    def held_out(self, train: Records, seed: int) -> np.ndarray:
        """Logits by the regression of each source, float64 [sources, n], fitted without a fifth of the records, in turn."""
        values, kinds = readings(train, self.probes), _kinds(train)
        names = _names(kinds)
        for name in names or [""]:
            if (number := int((kinds == name).sum())) < 2 or not names:
                raise Refusal(
                    f"`records` should hold two or more anomalous images of a kind to fit `{self.name}` on. "
                    f"Got {number if names else 0} of {name or 'any kind'}. Give more of them, or leave the kind out."
                )
        rng, logits = np.random.default_rng(seed), np.empty((len(names), len(kinds)))
        fold = np.empty(len(kinds), dtype=np.int64)
        for name in ["", *names]:  # each fold has its part of every kind
            rows = np.flatnonzero(kinds == name)
            fold[rng.permutation(rows)] = np.arange(len(rows)) % _FOLDS
        for one in range(_FOLDS):
            held = fold == one
            for row, model in enumerate(self._regressions(values[~held], kinds[~held], names)):
                logits[row, held] = model.score(torch.from_numpy(values[held]))
        return logits

    def _regressions(self, values: np.ndarray, kinds: np.ndarray, names: Sequence[str]) -> list[Logistic]:
        own = [(kinds == "") | (kinds == name) for name in names]
        labels, width = (kinds != "").astype(int), values.shape[1]
        return [fit_balanced_logistic([(0, values[rows])], width, labels[rows], self.strength) for rows in own]


@dataclass(frozen=True, eq=False)
class FittedKnownAnomalies(TensorFitted):
    """What the earlier detector and the regression on each `known` source have learnt.

    `tails` hold their scores of normal images that they were not fitted on, `shares` their parts of the false alarms.
    """

    earlier: Fitted
    reads: Sequence[Probe]
    known: Sequence[str]
    models: Sequence[Logistic]
    tails: Sequence[EmpiricalTail]
    shares: np.ndarray

    @override
    def tensor_score(self, read: TensorReadings) -> Tensor:
        return self._surprises(read).amax(dim=0)

    def surprises(self, records: Records, logits: np.ndarray | None = None) -> np.ndarray:
        """−log of each p-value divided by its share, float64 [1 + sources, n]; `logits` stand in for the regressions'."""
        given = None if logits is None else torch.from_numpy(logits)
        return np.asarray(self._surprises(TensorReadings.of(records), given).numpy())

    def _surprises(self, read: TensorReadings, logits: Iterable[Tensor] | None = None) -> Tensor:
        if logits is None:
            values = _numbers(read, self.reads)
            logits = [model.score(values) for model in self.models]
        pairs = zip(self.tails, [read.score(self.earlier), *logits], strict=True)
        surprises = torch.stack([tail.tensor_surprise(scores) for tail, scores in pairs])
        return surprises + torch.from_numpy(np.log(self.shares))[:, None]


def readings(records: Records, probes: Sequence[Probe]) -> np.ndarray:
    """What probes have read as numbers for a linear model, float64 [n, D]: norms as logarithms, logits with `confidence`."""
    return np.asarray(_numbers(TensorReadings.of(records), probes).numpy())


def _numbers(read: TensorReadings, probes: Sequence[Probe]) -> Tensor:
    parts = list[Tensor]()
    for probe in probes:
        values = read.probe(probe.name)
        parts += [values] * isinstance(probe, LogitsProbe) + [numbers(probe, values)]
    return torch.cat(parts, dim=1)


def _kinds(records: Records) -> np.ndarray:
    """The source of each anomalous record, or its attack; empty for normal ones."""
    sources, attacks = (records.column(name).astype(str) for name in ("source", "attack"))
    return np.where(records.anomalous == 0, "", np.where(attacks == "", sources, attacks))


def _names(kinds: np.ndarray) -> list[str]:
    return [name for name in np.unique(kinds).tolist() if name]
