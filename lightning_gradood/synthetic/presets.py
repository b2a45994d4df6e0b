"""The synthetic outliers that are made by default."""

from lightning_gradood.synthetic.outlier import SyntheticOutlier
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
