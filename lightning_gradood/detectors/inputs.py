"""Inputs of a learnt detector, side by side: gradient norms, features, confidence, views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from scipy.special import logsumexp

from lightning_gradood.core import LOG_FLOOR, Refusal
from lightning_gradood.detectors.consistency import ViewsProbe
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.probes import FeatureSpreadProbe, GradientProbe, LogitsProbe, Probe
from lightning_gradood.records import Records

Input = Literal["norms", "features", "confidence", "views"]
_TOP = 3  # logits that are kept one by one, the largest first


class Inputs:
    """Groups of numbers about an image, one after the other.

    Args:
        names: one or more, each once: `norms`, logarithms of the gradient norms of every label design, ln(value +
            1e-30); `features`, averages and standard deviations of the channels of the feature layers; `confidence`, of
            the logits z: logsumexp, z₁ − z₂, z₂ − z₃, log(1 − p₁), mean, standard deviation, z₁, z₂, z₃; `views`, how
            the logits change with the view, see `ViewsProbe`.
        label_designs: whose norms are read.
    """

    def __init__(self, names: Sequence[str], label_designs: Sequence[LabelDesign]) -> None:
        if not names or len(set(names)) < len(names) or not set(names) <= set(get_args(Input)):
            raise Refusal(
                f"`inputs` should be one or more of {', '.join(get_args(Input))}, each once. Got `inputs = {list(names)}`."
            )
        self.names = list(names)
        probes: dict[str, list[Probe]] = {
            "norms": [GradientProbe(design) for design in label_designs],
            "features": [FeatureSpreadProbe()],
            "confidence": [LogitsProbe()],
            "views": [ViewsProbe()],
        }
        self._probes = {name: probes[name] for name in self.names}

    @property
    def probes(self) -> list[Probe]:
        """The probes that are read, each once."""
        return [probe for group in self._probes.values() for probe in group]

    def values(self, records: Records) -> np.ndarray:
        """The numbers of each record, float64 [n, D]."""
        parts = []
        for name, probes in self._probes.items():
            values = np.concatenate([records.probe(probe.name).astype(np.float64) for probe in probes], axis=1)
            if name == "norms":
                values = np.log(values + LOG_FLOOR)
            parts.append(confidence(values) if name == "confidence" else values)
        return np.concatenate(parts, axis=1)


def confidence(logits: np.ndarray) -> np.ndarray:
    """Nine numbers that say how sure the classifier is, float64 [n, 9], of logits [n, classes]; see `Inputs`.

    Of fewer than three classes missing logits count as the smallest one; beside a single logit, the other is 0.
    """
    if logits.shape[1] == 1:
        logits = np.concatenate([logits, np.zeros_like(logits)], axis=1)
    ordered = -np.sort(-logits, axis=1)
    top = np.concatenate([ordered, np.repeat(ordered[:, -1:], _TOP, axis=1)], axis=1)[:, :_TOP]
    energy = logsumexp(ordered, axis=1)
    others = logsumexp(ordered[:, 1:], axis=1) - energy
    gaps = (top[:, 0] - top[:, 1], top[:, 1] - top[:, 2])
    return np.column_stack([energy, *gaps, others, logits.mean(axis=1), logits.std(axis=1), top])
