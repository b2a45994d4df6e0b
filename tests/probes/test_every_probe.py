"""What holds for every probe: the network is left as it was, a row belongs to its image, settings are told apart."""

import inspect

import pytest
import torch
from asserts import (
    assert_modes_of_the_caller_change_nothing,
    assert_reading_leaves_everything_as_it_was,
    assert_rows_belong_to_their_images,
)

from lightning_gradood import detectors, gradients, probes
from lightning_gradood.core import digest
from lightning_gradood.detectors import (
    FromNoiseProbe,
    GradPCAProbe,
    ImageStatisticsProbe,
    MahalanobisProbe,
    NeuronProbe,
    OdinProbe,
    PerturbedFeaturesProbe,
    PytorchOODProbe,
    ViewsProbe,
)
from lightning_gradood.networks import CifarResNet, Normalized
from lightning_gradood.probes import FeatureProbe, FeatureSpreadProbe, GradientProbe, LogitsProbe

DESIGNS = [
    gradients.AllOnes(), gradients.AllZeros(), gradients.KHot((0, 2)), gradients.Predicted(), gradients.SecondBest(),
    gradients.Uniform(),
]  # fmt: skip
PROBES = [
    *map(GradientProbe, DESIGNS), LogitsProbe(), FeatureProbe(), FeatureSpreadProbe(), probes.PenultimateProbe(),
    ImageStatisticsProbe(), OdinProbe(), MahalanobisProbe(), MahalanobisProbe((0.0, 0.0014)),
    probes.PixelProbe("float32"), ViewsProbe(), PerturbedFeaturesProbe(),
    PytorchOODProbe("pytorch_ood.detector.ODIN", {"eps": 0.01}), FromNoiseProbe(), GradPCAProbe(), NeuronProbe(),
    NeuronProbe("network.layer2"),
]  # fmt: skip
IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def network():
    """Return a small network in training mode, one parameter frozen and one layer in evaluation mode: state to restore."""
    torch.manual_seed(0)
    network = Normalized(CifarResNet(1, num_classes=4), [0.5] * 3, [0.5] * 3)
    network.network.conv1.weight.requires_grad_(False)
    network.network.layer2.eval()
    return network


def prepared(probe, subject):
    images, labels = torch.rand(80, 3, 16, 16, generator=torch.Generator().manual_seed(2)), torch.arange(80) % 4
    return probe.prepare(subject, list(zip(images.split(32), labels.split(32), strict=True)))


def test_no_probe_and_no_label_design_is_forgotten():
    def concrete(room, base):
        kinds = {value for name, value in vars(room).items() if inspect.isclass(value) and name in room.__all__}
        return {kind for kind in kinds if issubclass(kind, base) and not inspect.isabstract(kind)}

    there = concrete(probes, probes.Probe) | concrete(detectors, probes.Probe)
    assert {type(probe) for probe in PROBES} == there
    assert {type(design) for design in DESIGNS} == concrete(gradients, gradients.LabelDesign)


@pytest.mark.parametrize("kind", dict.fromkeys(map(type, PROBES)), ids=lambda kind: kind.__name__)
def test_a_probe_keeps_its_promises(kind):
    for probe in [probe for probe in PROBES if type(probe) is kind]:
        subject = network()
        probe = prepared(probe, subject)
        assert_reading_leaves_everything_as_it_was(probe, subject, IMAGES)
        assert_rows_belong_to_their_images(probe, subject, IMAGES)
        assert_modes_of_the_caller_change_nothing(probe, subject, IMAGES)


def test_one_backward_a_temperature_or_feature_layer_and_no_pass_for_magnitude_zero(monkeypatch):
    subject, forwards, backwards, run = network(), [], [], torch.autograd._engine_run_backward
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", lambda *a, **k: (backwards.append(1), run(*a, **k))[1])
    subject.register_forward_pre_hook(lambda *_: forwards.append(1))
    layers, magnitudes = ["network.relu", "network.layer1"], (0.0, 0.0014, 0.05)
    for probe, counted in (
        (OdinProbe((1.0, 10.0, 1000.0), magnitudes), (1 + 3 * 2, 3)),
        (OdinProbe((1.0, 10.0, 1000.0), (0.0,)), (1, 0)),
        (prepared(MahalanobisProbe(magnitudes, layers), subject), (1 + 2 * 2, 2)),
        (prepared(MahalanobisProbe((0.0,), layers), subject), (1, 0)),
    ):
        forwards.clear(), backwards.clear()
        probe(subject, IMAGES)
        assert (len(forwards), len(backwards)) == counted


def test_settings_are_told_apart():
    layers = ["relu", "layer1"]
    described = [
        LogitsProbe(), FeatureProbe(), FeatureProbe(layers),
        *map(GradientProbe, (gradients.AllOnes(), gradients.KHot((0, 1)), gradients.KHot((1,)), gradients.Uniform(2.0))),
        OdinProbe(), OdinProbe((1,)), OdinProbe(magnitudes=(0,)),
        MahalanobisProbe(), MahalanobisProbe((0, 0.1)), MahalanobisProbe((0, 0.2)), MahalanobisProbe(layers=layers),
    ]  # fmt: skip
    assert len({digest(probe) for probe in described}) == len(described)


def test_values_are_named():
    odin, mahalanobis = OdinProbe((1, 1000), (0, 0.0014)), MahalanobisProbe((0.0, 0.01), ["conv1", "relu"])
    assert odin.names(network()) == [f"T={t} eps={eps}" for t in ("1", "1000") for eps in ("0", "0.0014")]
    assert mahalanobis.name == "mahalanobis/preprocessed/conv1+relu"
    assert mahalanobis.names(network()) == [f"{layer} m={m}" for layer in ("conv1", "relu") for m in ("0", "0.01")]
