"""A Gaussian of normal gradient representations: the simplest label-free detector."""

import numpy as np

from lightning_gradood.detectors.label_free import LabelFreeDetector
from lightning_gradood.gradients import LabelDesign


class GradientGaussian(LabelFreeDetector):
    """Score by the squared distance from the predicted class' centre, in a metric between Euclid's and Mahalanobis'.

    Args:
        label_designs: the representation is their norms side by side; [AllOnes] if none are named.
        whitening: 1 gives the Mahalanobis distance with a shrunk tied covariance, 0 the Euclidean one of standardised
            norms.

    Reference:
        Lee et al. 2018, Eq. 1, on gradient norms rather than features; Ledoit and Wolf 2004 for the shrinkage.
    """

    def __init__(self, label_designs: list[LabelDesign] | None = None, whitening: float = 0.5) -> None:
        super().__init__(label_designs, whitening)

    @property
    def name(self) -> str:
        """`gradient_gaussian`."""
        return "gradient_gaussian"

    def _fit(self, normal: np.ndarray, seed: int) -> None:
        """The normality is all there is."""

    def _score(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.square(values).sum(axis=1))
