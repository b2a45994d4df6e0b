"""Inputs of a learnt detector, side by side: gradient norms, features, confidence, views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from scipy.special import logsumexp

from lightning_gradood.core import LOG_FLOOR, Component, Refusal
from lightning_gradood.detectors.consistency import ViewsProbe
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.probes import FeatureSpreadProbe, GradientProbe, LogitsProbe, Probe
from lightning_gradood.records import Records

Input = Literal["norms", "features", "confidence", "views"]
_LARGEST = 3  # logits that are kept one by one


@dataclass(frozen=True)
class Inputs(Component):
    """Groups of numbers about an image, one after the other.

    Args:
        names: one or more, each once: `norms`, logarithms of the gradient norms of every label design, ln(value +
            1e-30); `features`, averages and standard deviations of the channels of the feature layers; `confidence`, of
            the logits z: logsumexp, z₁ − z₂, z₂ − z₃, log(1 − p₁), mean, standard deviation, z₁, z₂, z₃; `views`, how
            the logits change with the view, see `ViewsProbe`.
        label_designs: whose norms are read.
        log_norms: whether logarithms of norms are taken, or the norms are given as they are.
    """

    names: Sequence[str]
    label_designs: Sequence[LabelDesign]
    log_norms: bool = True

    def __post_init__(self) -> None:
        names = list(self.names)
        if not names or len(set(names)) < len(names) or not set(names) <= set(get_args(Input)):
            raise Refusal(
                f"`inputs` should be one or more of {', '.join(get_args(Input))}, each once. Got `inputs = {names}`."
            )

    @cached_property
    def probes(self) -> list[Probe]:
        """The probes that are read, each once."""
        return [probe for name in self.names for probe in self._probes_of(name)]

    def values(self, records: Records) -> np.ndarray:
        """The numbers of each record, float64 [n, D]."""
        parts = []
        for name in self.names:
            columns = [records.probe(probe.name).astype(np.float64) for probe in self._probes_of(name)]
            values = np.concatenate(columns, axis=1)
            if name == "norms" and self.log_norms:
                values = np.log(values + LOG_FLOOR)
            parts.append(confidence(values) if name == "confidence" else values)
        return np.concatenate(parts, axis=1)

    def _probes_of(self, name: str) -> Sequence[Probe]:
        if name == "norms":
            return [GradientProbe(design) for design in self.label_designs]
        others: dict[str, Probe] = {
            "features": FeatureSpreadProbe(),
            "confidence": LogitsProbe(),
            "views": ViewsProbe(),
        }
        return [others[name]]


def confidence(logits: np.ndarray) -> np.ndarray:
    """Nine numbers that say how sure the classifier is, float64 [n, 9], of logits [n, classes]; see `Inputs`.

    Of fewer than three classes missing logits count as the smallest one; beside a single logit, the other is 0.
    """
    if logits.shape[1] == 1:
        logits = np.concatenate([logits, np.zeros_like(logits)], axis=1)
    ordered = -np.sort(-logits, axis=1)
    top = np.concatenate([ordered, np.repeat(ordered[:, -1:], _LARGEST, axis=1)], axis=1)[:, :_LARGEST]
    energy = logsumexp(ordered, axis=1)
    others = logsumexp(ordered[:, 1:], axis=1) - energy
    gaps = (top[:, 0] - top[:, 1], top[:, 1] - top[:, 2])
    return np.column_stack([energy, *gaps, others, logits.mean(axis=1), logits.std(axis=1), top])
