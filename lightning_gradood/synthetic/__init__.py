"""Synthetic outliers: images made from normal ones that stand for unknown anomalies.

Detectors that know no anomalies can be trained to tell normal images from these; the classifier is never trained on
them. Each kind is a frozen dataclass; name your own by class path. What is random about an image follows from the
kind's `seed` and the image's id alone, so that another seed draws other ones.

    >>> import torch
    >>> from lightning_gradood.synthetic import PatchShuffle, default_outliers
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 10))
    >>> images, predicted = torch.rand(2, 3, 4, 4), torch.tensor([-1, -1])
    >>> PatchShuffle().craft(network, images, predicted, ids=["a", "b"]).images.shape
    torch.Size([2, 3, 4, 4])
    >>> len(default_outliers()), sum(outlier.passes == 0 for outlier in default_outliers())
    (17, 12)
"""

from lightning_gradood.synthetic.outlier import Draws, GradientOutlier, SyntheticOutlier
from lightning_gradood.synthetic.presets import default_outliers
from lightning_gradood.synthetic.with_gradients import (
    BoundarySteps,
    EuclideanSteps,
    SignStep,
    SurerSteps,
    TargetSteps,
)
from lightning_gradood.synthetic.without_gradients import (
    Blur,
    ChannelPermutation,
    ColourField,
    Elastic,
    GaussianNoise,
    Overlay,
    PatchShuffle,
    Rectangles,
    Rotation,
    SignNoise,
    Solarise,
    Zoom,
)

__all__ = [
    "Blur",
    "BoundarySteps",
    "ChannelPermutation",
    "ColourField",
    "Draws",
    "Elastic",
    "EuclideanSteps",
    "GaussianNoise",
    "GradientOutlier",
    "Overlay",
    "PatchShuffle",
    "Rectangles",
    "Rotation",
    "SignNoise",
    "SignStep",
    "Solarise",
    "SurerSteps",
    "SyntheticOutlier",
    "TargetSteps",
    "Zoom",
    "default_outliers",
]
