"""What holds for every probe: the network is left as it was, a row belongs to its image, the caller's modes change nothing."""

import inspect

import pytest
import torch
from asserts import (
    assert_modes_of_the_caller_change_nothing,
    assert_reading_leaves_everything_as_it_was,
    assert_rows_belong_to_their_images,
)

from lightning_gradood import detectors, gradients, probes
from lightning_gradood.detectors import GradNormProbe, ImageStatisticsProbe, MahalanobisProbe, OdinProbe, ViewsProbe
from lightning_gradood.networks import CifarResNet, Normalized
from lightning_gradood.probes import (
    FeatureProbe,
    FeatureSpreadProbe,
    GradientProbe,
    LogitsProbe,
    PenultimateProbe,
    PixelProbe,
    Probe,
)

DESIGNS = [
    gradients.AllOnes(), gradients.AllZeros(), gradients.KHot((0, 2)), gradients.Predicted(), gradients.SecondBest(),
    gradients.Uniform(),
]  # fmt: skip
PROBES = [
    *(GradientProbe(design) for design in DESIGNS), LogitsProbe(), FeatureProbe(), FeatureSpreadProbe(),
    PenultimateProbe(), GradNormProbe(), ImageStatisticsProbe(), OdinProbe(), MahalanobisProbe(), MahalanobisProbe((0.0, 0.0014)),
    PixelProbe("float32"), ViewsProbe(),
]  # fmt: skip
IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def network():
    """Return a small network in training mode, one parameter frozen and one layer in evaluation mode: state to restore."""
    torch.manual_seed(0)
    network = Normalized(CifarResNet(1, num_classes=4), [0.5] * 3, [0.5] * 3)
    network.network.conv1.weight.requires_grad_(False)
    network.network.layer2.eval()
    return network


def test_no_probe_and_no_label_design_is_forgotten():
    def concrete(room, base):
        kinds = {value for name, value in vars(room).items() if inspect.isclass(value) and name in room.__all__}
        return {kind for kind in kinds if issubclass(kind, base) and not inspect.isabstract(kind)}

    there = concrete(probes, Probe) | concrete(detectors, Probe)
    assert {type(probe) for probe in PROBES} == there
    assert {type(design) for design in DESIGNS} == concrete(gradients, gradients.LabelDesign)


@pytest.mark.parametrize("kind", dict.fromkeys(map(type, PROBES)), ids=lambda kind: kind.__name__)
def test_a_probe_keeps_its_promises(kind):
    for probe in PROBES:
        if type(probe) is not kind:
            continue
        subject = network()
        if probe.needs_preparation:
            images, labels = torch.rand(80, 3, 16, 16, generator=torch.Generator().manual_seed(2)), torch.arange(80) % 4
            probe.load(probe.prepare(subject, list(zip(images.split(32), labels.split(32), strict=True))))
        assert_reading_leaves_everything_as_it_was(probe, subject, IMAGES)
        assert_rows_belong_to_their_images(probe, subject, IMAGES)
        assert_modes_of_the_caller_change_nothing(probe, subject, IMAGES)
