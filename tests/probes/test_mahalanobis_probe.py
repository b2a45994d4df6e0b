"""Mahalanobis' probe is scikit-learn's covariance, pytorch-ood's score and plain autograd's step."""

import re

import pytest
import torch
from asserts import state_of
from pytorch_ood.detector import Mahalanobis as Judge
from pytorch_ood.detector.mahalanobis import MahalanobisODIN as JudgeWithSteps
from scipy.stats import spearmanr
from sklearn.covariance import EmpiricalCovariance
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import MahalanobisProbe
from lightning_gradood.detectors.mahalanobis import Moments
from lightning_gradood.networks import resnet20
from lightning_gradood.probes import feature_layer_names

GENERATOR = torch.Generator().manual_seed(1)
TRAIN = torch.rand(200, 3, 6, 6, generator=GENERATOR), torch.arange(200) % 4
IMAGES = torch.rand(12, 3, 6, 6, generator=GENERATOR)
LAYERS, MAGNITUDES = ["0", "3"], (0.0, 0.0014, 0.05)


@pytest.fixture
def network():
    """Return a smooth network, so that no gradient is exactly 0, in training mode: state to restore."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Conv2d(5, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 4)
    )
    network[0].bias.requires_grad_(False)
    return network


def encoder(network, layer):
    """The spatial averages after a module, as plain torch."""
    return lambda images: network[: int(layer) + 1](images).mean((2, 3))


def prepared(network, magnitudes=MAGNITUDES, layers=LAYERS, batch_size=64):
    """Return a probe that has seen the training images in batches."""
    probe = MahalanobisProbe(magnitudes, layers)
    probe.load(probe.prepare(network, batches_of(TRAIN, batch_size)))
    return probe


def batches_of(data, size):
    return list(zip(data[0].split(size), data[1].split(size), strict=True))


def plain_gaussians(network, layer):
    """Class means and precision by scikit-learn."""
    with torch.no_grad():
        features = encoder(network, layer)(TRAIN[0].to(next(network.parameters()).dtype)).double()
    means = torch.stack([features[TRAIN[1] == label].mean(0) for label in range(4)])
    fitted = EmpiricalCovariance(assume_centered=False).fit((features - means[TRAIN[1]]).numpy())
    return means, torch.from_numpy(fitted.precision_)


def plain_confidence(features, means, precision):
    """-d²/2 of each class, [N, C]."""
    centred = features[:, None] - means
    return -0.5 * torch.einsum("ncd,de,nce->nc", centred, precision, centred)


def plain_column(network, layer, magnitude):
    """One feature layer's confidences after the step, one image at a time."""
    means, precision = plain_gaussians(network, layer)
    rows = []
    for image in IMAGES.double():
        image = image[None].clone().requires_grad_()
        confidence = plain_confidence(encoder(network, layer)(image), means, precision).amax(1)
        (gradient,) = torch.autograd.grad(-confidence.sum(), image)
        moved = image - magnitude * torch.where(gradient >= 0, 1.0, -1.0).double()
        rows.append(plain_confidence(encoder(network, layer)(moved), means, precision).max().item())
    return torch.tensor(rows, dtype=torch.float64)


def test_values_equal_scikit_learn_and_plain_autograd(network):
    network.double()
    probe = MahalanobisProbe(MAGNITUDES, LAYERS)
    batches = [(images.double(), labels) for images, labels in batches_of(TRAIN, 64)]
    probe.load(probe.prepare(network, batches))
    values = probe(network, IMAGES.double())
    network.eval()
    expected = torch.stack([plain_column(network, layer, m) for layer in LAYERS for m in MAGNITUDES], 1)
    torch.testing.assert_close(values, expected, rtol=1e-8, atol=0)


def test_values_equal_pytorch_ood(network):
    """Its covariance is not divided by the number of images."""
    values = prepared(network)(network, IMAGES)
    network.eval()
    for layer, columns in zip(LAYERS, values.T.split(len(MAGNITUDES)), strict=True):
        judge = Judge(encoder(network, layer)).to("cpu").fit(batches_of(TRAIN, 64))
        assert_judged_the_same(columns[0], judge.predict(IMAGES))
        for column, magnitude in zip(columns[1:], MAGNITUDES[1:], strict=True):
            judge = JudgeWithSteps(encoder(network, layer), eps=magnitude).to("cpu").fit(batches_of(TRAIN, 64))
            assert_judged_the_same(column, judge.predict(IMAGES))


def assert_judged_the_same(confidences, scores):
    torch.testing.assert_close(-confidences / len(TRAIN[0]), scores.detach().double(), rtol=2e-3, atol=0)
    assert spearmanr(-confidences, scores.detach()).statistic == pytest.approx(1, abs=1e-5)


def test_batches_of_any_size_and_order_give_the_same(network):
    (images, labels), expected = TRAIN, prepared(network)(network, IMAGES)
    for size in (1, 7, 200):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(size))
        probe = MahalanobisProbe(MAGNITUDES, LAYERS)
        probe.load(probe.prepare(network, batches_of((images[order], labels[order]), size)))
        torch.testing.assert_close(probe(network, IMAGES), expected, rtol=1e-4, atol=0)


def test_directions_without_variance_are_left_out():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 3, generator=generator, dtype=torch.float64), torch.arange(60) % 3
    dead = torch.cat([features, torch.ones(60, 2, dtype=torch.float64), features.sum(1, keepdim=True)], 1)
    moments, plain = Moments(3), Moments(3)
    moments.add(dead, labels), plain.add(features, labels)
    found, expected = moments.gaussians(), plain.gaussians()
    assert found.whitening.shape == (6, 3)
    torch.testing.assert_close(found.confidence(dead), expected.confidence(features), rtol=1e-8, atol=0)
    far = Moments(3)  # loses no digits
    far.add(features + 1e6, labels)
    confidence = far.gaussians().confidence(features + 1e6)
    torch.testing.assert_close(confidence, expected.confidence(features), rtol=1e-6, atol=0)


def test_a_class_that_never_occurs_is_never_the_closest():
    features, labels = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) + 5, torch.arange(40) % 2 * 2
    moments = Moments(3)
    moments.add(features, labels)
    assert moments.gaussians().means.shape == (2, 2)


def test_a_constant_feature_layer_is_no_evidence(network):
    probe = MahalanobisProbe((0.0, 0.01), ["0"])
    with torch.no_grad():
        network[0].weight.zero_()
    probe.load(probe.prepare(network, batches_of(TRAIN, 64)))
    assert probe(network, IMAGES).tolist() == [[0.0, 0.0]] * 12


def test_our_networks_are_read_at_their_usual_feature_layers():
    torch.manual_seed(0)
    network, images = resnet20(num_classes=4), torch.rand(150, 3, 8, 8, generator=GENERATOR)
    probe = MahalanobisProbe((0.0, 0.01))
    probe.load(probe.prepare(network, [(images, torch.arange(150) % 4)]))
    layers = feature_layer_names(network)
    assert probe.names(network) == [f"{layer} m={m}" for layer in layers for m in ("0", "0.01")]
    values = probe(network, images)
    assert values.shape == (150, 2 * len(layers))
    widths = torch.tensor([16.0, 16.0, 32.0, 64.0], dtype=torch.float64)
    nearest_own = values[:, ::2].mean(0)  # the mean of d² about the own class's mean is the width; others may be closer
    assert ((-2 * nearest_own <= widths * 1.0001) & (-2 * nearest_own > widths * 0.8)).all()


def test_one_backward_a_feature_layer_and_no_pass_for_magnitude_zero(network, monkeypatch):
    probe, plain = prepared(network), prepared(network, (0.0,))
    forwards, backwards, run = [], [], torch.autograd._engine_run_backward

    def counted(*args, **kwargs):
        backwards.append(1)
        return run(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "_engine_run_backward", counted)
    network.register_forward_pre_hook(lambda *_: forwards.append(1))
    probe(network, IMAGES)
    assert (len(forwards), len(backwards)) == (1 + 2 * 2, 2)
    forwards.clear(), backwards.clear()
    plain(network, IMAGES)
    assert (len(forwards), len(backwards)) == (1, 0)


def test_an_error_half_way_leaves_the_network_as_it_was(network):
    before = state_of(network)
    with pytest.raises(RuntimeError):
        MahalanobisProbe(layers=LAYERS).prepare(network, [*batches_of(TRAIN, 64), (IMAGES[:, :2], TRAIN[1][:12])])
    with pytest.raises(RuntimeError):
        prepared(network)(network, IMAGES[:, :2])
    assert state_of(network) == before


def test_it_is_prepared_loaded_and_read_in_inference_mode(network):
    expected = prepared(network)(network, IMAGES)
    with torch.inference_mode():
        images, labels = TRAIN[0].clone(), TRAIN[1].clone()
        probe = MahalanobisProbe(MAGNITUDES, LAYERS)
        state = probe.prepare(network, batches_of((images, labels), 64))
        probe.load({name: tensor.clone() for name, tensor in state.items()})
        found = probe(network, IMAGES.clone())
    assert torch.equal(found, expected)


def test_names_tell_settings_apart_and_preparations_are_shared():
    plain, stepping = MahalanobisProbe(), MahalanobisProbe(MAGNITUDES)
    assert (plain.name, stepping.name) == ("mahalanobis", "mahalanobis/preprocessed")
    assert MahalanobisProbe(MAGNITUDES, LAYERS).name == "mahalanobis/preprocessed/0+3"
    described = [plain, stepping, MahalanobisProbe((0, 0.1)), MahalanobisProbe(layers=LAYERS)]
    assert len({str(probe.describe()) for probe in described}) == 4
    assert plain.describe_preparation() == stepping.describe_preparation()
    assert plain.describe_preparation() != MahalanobisProbe(layers=LAYERS).describe_preparation()
    assert plain.needs_preparation


def test_what_has_no_meaning_is_refused(network):
    with pytest.raises(RuntimeError, match=r"MahalanobisProbe.load comes before the first reading"):
        MahalanobisProbe(layers=LAYERS)(network, IMAGES)
    for settings, words in (
        ({"magnitudes": []}, "`magnitudes` should be one or more different numbers"),
        ({"layers": []}, "`layers` should name different modules, at least one. Got `layers = []`."),
        ({"layers": ["0", "0"]}, "Got `layers = ['0', '0']`. Leave it out for the usual ones."),
    ):
        with pytest.raises(Refusal, match=re.escape(words)):
            MahalanobisProbe(**settings)
    for batches, words in (
        ([], "`batches` should hold training images. Got none."),
        ([(IMAGES, torch.full((12,), 4))], "0 to 3, as the network has 4 outputs. Got classes 4 to 4."),
        ([(IMAGES, torch.full((12,), -1))], "Got classes -1 to -1. Give the images that the network was trained on."),
    ):
        with pytest.raises(Refusal, match=re.escape(words)):
            MahalanobisProbe(layers=LAYERS).prepare(network, batches)
