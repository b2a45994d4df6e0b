"""The baseline: how unsure is the classifier?"""

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from lightning_gradood.detectors.fixed import FixedDetector
from lightning_gradood.probes import LogitsProbe, Probe
from lightning_gradood.records import Records


class Baseline(FixedDetector):
    """Maximum softmax probability p, as log(1 − p): the order of −p, but without ties where p rounds to 1.

    Reference:
        Hendrycks, Gimpel 2017, section 2.
    """

    @property
    def name(self) -> str:
        """`baseline`."""
        return "baseline"

    @property
    def probes(self) -> Sequence[Probe]:
        """The logits."""
        return [LogitsProbe()]

    def score(self, records: Records) -> np.ndarray:
        """log(1 − max_c p_c), float64 [n], in (−∞, 0)."""
        logits = records.probe(LogitsProbe().name)
        others = np.array(logits, dtype=np.float64)
        np.put_along_axis(others, logits.argmax(axis=1, keepdims=True), -np.inf, axis=1)
        return np.asarray(logsumexp(others, axis=1) - logsumexp(logits, axis=1))
