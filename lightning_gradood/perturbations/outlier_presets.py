"""The synthetic outliers that are made by default."""

from lightning_gradood.perturbations.outliers_with_gradients import (
    BoundarySteps,
    EuclideanSteps,
    SignStep,
    SurerSteps,
    TargetSteps,
)
from lightning_gradood.perturbations.outliers_without_gradients import (
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
from lightning_gradood.perturbations.synthetic_outlier import SyntheticOutlier


def default_outliers() -> list[SyntheticOutlier]:
    """Return one of every kind, those without gradients first."""
    natural: list[SyntheticOutlier] = [
        GaussianNoise(),
        SignNoise(),
        PatchShuffle(),
        Overlay(),
        Blur(),
        ChannelPermutation(),
        Solarise(),
        Rotation(),
        Zoom(),
        Elastic(),
        ColourField(),
        Rectangles(),
    ]
    return [*natural, SignStep(), TargetSteps(), BoundarySteps(), EuclideanSteps(), SurerSteps()]
