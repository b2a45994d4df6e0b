"""A guard as an attacker has it: logits and score as functions of the image, with a graph where gradients are followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal, keeping_graphs, to_float64
from lightning_gradood.detectors import Fitted, TensorReadings, score_in_blocks
from lightning_gradood.metrics import conformal_threshold
from lightning_gradood.probes import Probe, read_probes


class Judgement(NamedTuple):
    """Logits float64 [N, C] and scores float64 [N], higher = more anomalous."""

    logits: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Target:
    """The classifier and the detector of a guard, to be attacked at once.

    Args:
        network: pixels in [0, 1] in, logits out.
        probes: those that the detector reads, prepared where they need it.
        fitted: the detector; where gradients are followed its score is written as operations on tensors.
        calibration: scores of normal images, float64 [n].
        rate: share of normal images flagged at the threshold that an attacker stays below.
        name: of the detector.
    """

    network: nn.Module
    probes: Sequence[Probe]
    fitted: Fitted
    calibration: np.ndarray
    rate: float
    name: str

    @cached_property
    def threshold(self) -> float:
        """Scores above it are flagged."""
        return conformal_threshold(self.calibration, self.rate)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of normal scores, the unit in which a score is weighed against logits."""
        return float(np.std(self.calibration)) or 1.0

    def follow(self, images: Tensor) -> Judgement:
        """Judge images that require grad, keeping the graph.

        Where a score has steps or no slope (ranks, the choice of a neighbour or of a class, the signs of a step towards a
        class) the nearest smooth function stands for it; `judge` has the score itself.

        Raises:
            Refusal: the score is not a function of the image that autograd can differentiate.
        """
        with keeping_graphs():
            reading = read_probes(self.probes, self.network, images)
        values = {name: to_float64(one).cpu() for name, one in reading.values.items()}
        logits = to_float64(reading.logits).cpu()
        scores = TensorReadings(values.__getitem__, logits.argmax(dim=1)).score(self.fitted)
        if not scores.requires_grad:
            raise Refusal(
                "`--guard` should have a detector whose score can be differentiated by the image. Got "
                f"`{self.name}`, which reads something else. Take another guard, or `--attacks queries`."
            )
        return Judgement(logits, scores)

    def judge(self, images: Tensor) -> Judgement:
        """Judge images without a graph, whatever the detector, as `Guard.__call__` does."""
        with torch.no_grad():
            reading = read_probes(self.probes, self.network, images)
        return Judgement(
            to_float64(reading.logits).cpu(), torch.from_numpy(score_in_blocks(self.fitted, reading.records()))
        )


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label less the largest other one, float64 [N]: below 0 where the classifier is wrong."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
