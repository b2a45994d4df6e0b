"""Detectors on logits: the maximum softmax probability, and the energy."""

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal
from lightning_gradood.detectors.detector import FixedDetector
from lightning_gradood.probes import LogitsProbe, Probe
from lightning_gradood.records import Records


class Baseline(FixedDetector):
    """Maximum softmax probability p, as log(1 − p), in (−∞, 0): the order of −p, but without ties where p rounds to 1.

    Reference:
        Hendrycks, Gimpel 2017, section 2.
    """

    name = "baseline"
    probes: Sequence[Probe] = (LogitsProbe(),)

    @override
    def score(self, records: Records) -> np.ndarray:
        logits = records.probe(LogitsProbe().name)
        others = np.array(logits, dtype=np.float64)
        np.put_along_axis(others, logits.argmax(axis=1, keepdims=True), -np.inf, axis=1)
        return np.asarray(logsumexp(others, axis=1) - logsumexp(logits, axis=1))


class Energy(FixedDetector):
    """−T·logsumexp(z / T) of the logits z, T = `temperature` above 0.

    Reference:
        Liu, Wang, Owens, Li 2020, Eq. 4.
    """

    name = "energy"
    probes: Sequence[Probe] = (LogitsProbe(),)

    def __init__(self, temperature: float = 1.0, name: str = "energy") -> None:
        if not 0 < temperature < np.inf:
            raise Refusal(
                f"`temperature` should be above 0 and finite. Got `temperature = {temperature}`. The paper's is 1."
            )
        self.temperature = temperature
        self.name = name

    @override
    def score(self, records: Records) -> np.ndarray:
        logits = records.probe(LogitsProbe().name).astype(np.float64)
        return np.asarray(-self.temperature * logsumexp(logits / self.temperature, axis=1))
