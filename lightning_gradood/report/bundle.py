"""The data that a detection report is made from, in one object."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_gradood.core import Refusal
from lightning_gradood.evaluation import Outcome

MEAN = "mean"
"""The word that stands where a source's name stands when a number is the mean over sources."""


@dataclass(frozen=True)
class DetectionReport:
    """What stage two found, ready to be written, drawn and logged.

    Args:
        experiment: name of the experiment.
        outcomes: one per anomaly source and detector, or one per pair of sources where each is tested with each.
        norms: source name to gradient representation of the first label design, squared L2 norms, float64 [n, L];
            `"normal"` first, then the anomaly sources. It may be empty when no gradients were probed.
        layer_names: names of the L parameter tensors, in the order of the columns of `norms`.
        samples: source name to a few of its images, uint8 [k, H, W, C] with C = 1 or 3, `"normal"` first.
        manifest: which id is in which split (others write it as `splits.json`).
        provenance: versions, network, checkpoint, seeds, seconds and whatever else a reader needs to repeat the run.

    Raises:
        Refusal: two outcomes share source and detector, a source is called `"mean"`, `norms` and `layer_names`
            disagree, or `samples` are not uint8 images.
    """

    experiment: str
    outcomes: list[Outcome]
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    layer_names: list[str] = field(default_factory=list)
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_outcomes(self.outcomes)
        _check_norms(self.norms, self.layer_names)
        _check_samples(self.samples)


def by_detector(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """Group outcomes by detector, those trained on one other source apart; both in order of first appearance."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.label, []).append(outcome)
    return groups


def not_transferred(outcomes: list[Outcome]) -> list[Outcome]:
    """Leave out the outcomes of detectors that were trained on one other source: they belong into a matrix."""
    return [outcome for outcome in outcomes if not outcome.transferred]


def _check_outcomes(outcomes: list[Outcome]) -> None:
    pairs = [(outcome.source, outcome.label) for outcome in outcomes]
    for source, detector in pairs:
        if source == MEAN:
            raise Refusal(
                f'`outcomes` should name no source "{MEAN}", the word for the mean over sources. '
                f"Got `source = {source!r}`. Rename the source."
            )
        if pairs.count((source, detector)) > 1:
            raise Refusal(
                "`outcomes` should hold each pair of source and detector once. "
                f"Got `{source!r}` with `{detector!r}` {pairs.count((source, detector))} times. "
                "Give the detectors, or the sources, different names."
            )


def _check_norms(norms: dict[str, np.ndarray], layer_names: list[str]) -> None:
    for source, values in norms.items():
        if values.ndim != 2 or values.shape[1] != len(layer_names):
            raise Refusal(
                f"`norms[{source!r}]` should have one column per layer name, shape [n, {len(layer_names)}]. "
                f"Got `shape = {list(values.shape)}`. Pass the representation of the first label design only."
            )


def _check_samples(samples: dict[str, np.ndarray]) -> None:
    for source, images in samples.items():
        if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype != np.uint8:
            raise Refusal(
                f"`samples[{source!r}]` should be uint8 images of shape [k, H, W, C] with C = 1 or 3. "
                f"Got `{images.dtype} {list(images.shape)}`. Move the channels last and scale to 0..255."
            )
