"""A classifier of normal images against synthetic outliers made from them, which needs no known anomaly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal
from lightning_gradood.detectors.detector import Detector, normal_training_records, outlier_training_records
from lightning_gradood.detectors.inputs import Input, Inputs
from lightning_gradood.detectors.logistic import Logistic, fit_balanced_logistic
from lightning_gradood.detectors.mlp import mlp_of, state_of, train_mlp
from lightning_gradood.gradients import AllOnes, LabelDesign
from lightning_gradood.networks import MLPSettings, RepresentationMLP
from lightning_gradood.perturbations import SyntheticOutlier, default_outliers
from lightning_gradood.probes import Probe
from lightning_gradood.records import Records

Model = Literal["linear", "mlp"]
_HELD_OUT = 5  # every so many-th image, with its outliers, stops the MLP's training
_MOST = 6000  # records of either kind that a linear model is fitted on; more change nothing and take longer


class SyntheticOutliers(Detector):
    """Logit by which a model takes an image for a synthetic outlier rather than a normal image.

    The outliers are made from normal images and read in the same pass; only those of `train` are fitted on. Scoring an
    image makes none. With `inputs = [norms]` and `model = mlp` it is the paper's detector without known anomalies.

    Args:
        inputs: what the model reads of an image, see `Inputs`.
        model: `linear`, a logistic regression; `mlp`, the paper's two-layer MLP.
        label_designs: whose norms are read, where `inputs` has `norms`; by default those of the experiment.
        outliers: kinds of synthetic outliers, with different names; by default one of every kind.
        strength: C of the logistic regression, above 0; smaller ones shrink weights more.
        settings: of the MLP.

    Reference:
        Hendrycks, Mazeika and Dietterich 2019, "Outlier Exposure", which trains the classifier itself on outliers; here
        a small model is trained on what the classifier shows.
    """

    name = "synthetic_outliers"
    needs_anomalies = False
    outliers: Sequence[SyntheticOutlier] = ()

    def __init__(
        self,
        inputs: Sequence[Input] = ("features", "confidence", "views"),
        model: Model = "linear",
        label_designs: list[LabelDesign] | None = None,
        outliers: list[SyntheticOutlier] | None = None,
        strength: float = 0.1,
        settings: MLPSettings | None = None,
        name: str = "synthetic_outliers",
    ) -> None:
        self.label_designs = label_designs
        self._inputs = Inputs(inputs, label_designs or [AllOnes()])
        self.outliers = default_outliers() if outliers is None else list(outliers)
        names = [one.name for one in self.outliers]
        if not names or len(set(names)) < len(names):
            raise Refusal(f"`outliers` should be one or more with different names. Got {names}. Name others.")
        if model not in ("linear", "mlp") or not strength > 0:
            raise Refusal(
                "`model` should be linear or mlp, and `strength` above 0. "
                f"Got `model = {model}` and `strength = {strength}`."
            )
        self.inputs, self.model, self.strength = list(inputs), model, strength
        # logarithms were taken where they belong
        self.settings = replace(settings or MLPSettings(), log_values=False)
        self.name = name
        self._linear: Logistic | None = None
        self._mlp: RepresentationMLP | None = None

    @property
    @override
    def probes(self) -> Sequence[Probe]:
        return self._inputs.probes

    @override
    def with_label_designs(self, label_designs: Sequence[LabelDesign]) -> SyntheticOutliers:
        if self.label_designs:
            return self
        return SyntheticOutliers(**self.arguments | {"label_designs": list(label_designs)})

    @override
    def fit(self, records: Records, seed: int) -> list[dict[str, float]]:
        normal, outliers = normal_training_records(records), outlier_training_records(records, self)
        if self.model == "linear":
            random = np.random.default_rng(seed)
            values = [self._inputs.values(_some(part, random)) for part in (normal, outliers)]
            labels = np.repeat([0, 1], [len(part) for part in values])
            self._linear = fit_balanced_logistic(np.concatenate(values), labels, self.strength)
            return []
        values = [self._inputs.values(part) for part in (normal, outliers)]
        every = np.concatenate(values)
        anomalous = np.repeat([0, 1], [len(part) for part in values])
        held = _held_out([*normal.column("origin_id"), *outliers.column("origin_id")], seed)
        train, stop = ((torch.from_numpy(every[rows]), torch.from_numpy(anomalous[rows])) for rows in (~held, held))
        found = train_mlp(train, stop, self.settings, seed)
        self._mlp = found.network
        return found.curves

    @override
    def score(self, records: Records) -> np.ndarray:
        values = self._inputs.values(records)
        if self.model == "linear":
            return self._fitted(self._linear).score(values)
        logits = self._fitted(self._mlp)(torch.from_numpy(values))
        return np.asarray(logits.double().numpy())

    @override
    def state_dict(self) -> dict[str, Tensor]:
        if self.model == "linear":
            return self._fitted(self._linear).state_dict()
        return state_of(self._fitted(self._mlp))

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if self.model == "linear":
            self._linear = Logistic.from_state_dict(state)
            return
        self._mlp = mlp_of(state, self.settings)


def _some(records: Records, random: np.random.Generator) -> Records:
    if len(records) <= _MOST:
        return records
    return Records(records.table.take(np.sort(random.permutation(len(records))[:_MOST])))


def _held_out(origins: Sequence[str], seed: int) -> np.ndarray:
    """Which rows stop the training, bool [n]; an image and its outliers together."""
    names = np.unique(np.array(origins, dtype=str))
    held = set(np.random.default_rng(seed).permutation(names)[::_HELD_OUT].tolist())
    return np.array([origin in held for origin in origins])
