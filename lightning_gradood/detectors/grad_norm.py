"""GradNorm: how little would a uniform label change the last layer?"""

from collections.abc import Sequence

import numpy as np

from lightning_gradood.detectors.fixed import FixedDetector
from lightning_gradood.probes import GradNormProbe, Probe
from lightning_gradood.records import Records


class GradNorm(FixedDetector):
    """The negated L1 norm of the last layer's gradient: normal images are expected to ask for the larger change.

    Reference:
        Huang, Geng, Li 2021, Eq. 7.
    """

    @property
    def name(self) -> str:
        """`gradnorm`."""
        return "gradnorm"

    @property
    def probes(self) -> Sequence[Probe]:
        """The norm."""
        return [GradNormProbe()]

    def score(self, records: Records) -> np.ndarray:
        """Negated norms, float64 [n]."""
        return np.asarray(-records.probe(GradNormProbe().name)[:, 0], dtype=np.float64)
