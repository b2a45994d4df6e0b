"""ODIN and Mahalanobis are plain autograd's, one image at a time, scikit-learn's covariance and pytorch-ood's scores."""

import pytest
import torch
from asserts import state_of
from pytorch_ood.detector import ODIN, Mahalanobis
from pytorch_ood.detector.mahalanobis import MahalanobisODIN
from sklearn.covariance import EmpiricalCovariance
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import MahalanobisProbe, OdinProbe
from lightning_gradood.detectors.mahalanobis import Moments
from lightning_gradood.detectors.output_scores import ScaledOdinProbe, _signs, signs_of
from lightning_gradood.networks import Normalized

GENERATOR = torch.Generator().manual_seed(1)
TRAIN = torch.rand(200, 3, 6, 6, generator=GENERATOR), torch.arange(200) % 4
IMAGES = torch.rand(12, 3, 6, 6, generator=GENERATOR)
LAYERS, TEMPERATURES, MAGNITUDES = ["0", "3"], (1.0, 10.0, 1000.0), (0.0, 0.0014, 0.05)


@pytest.fixture
def network():
    """Return a smooth network, so that no gradient is exactly 0, in training mode: state to restore."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Conv2d(5, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 4)
    )
    network[0].bias.requires_grad_(False)
    return network


def moved(image, score, magnitude):
    """The image after the papers' step away from a falling score."""
    (gradient,) = torch.autograd.grad(score, image)
    return image - magnitude * torch.where(gradient >= 0, 1.0, -1.0).double()


def plain_odin(network, image, temperature, magnitude):
    image = image[None].clone().requires_grad_()
    logits = network(image) / temperature
    image = moved(image, cross_entropy(logits, logits.argmax(1)), magnitude)
    return torch.softmax(network(image) / temperature, 1).max().item()


def test_odin_is_plain_autograd_s(network):
    values = OdinProbe(TEMPERATURES, MAGNITUDES)(network.double(), IMAGES.double())
    network.eval().requires_grad_(True)
    expected = [
        [plain_odin(network, image.double(), T, m) for T in TEMPERATURES for m in MAGNITUDES] for image in IMAGES
    ]
    assert values.dtype == torch.float64
    assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0)


def test_odin_is_pytorch_ood_s(network):
    probe = OdinProbe(TEMPERATURES, MAGNITUDES)
    values = probe(network, IMAGES)
    network.eval()
    for column, (temperature, magnitude) in zip(values.T, probe.grid, strict=True):
        judged = ODIN(network, eps=magnitude, temperature=temperature).predict(IMAGES)
        assert_close(column, -judged.double(), rtol=1e-5, atol=0)


def openood_s(loss, normalised, magnitude, deviations):
    """The step that OpenOOD's ODIN and MDSEns take with normalised images."""
    (gradient,) = torch.autograd.grad(loss, normalised)
    signs = (torch.ge(gradient, 0).double() - 0.5) * 2
    return normalised - magnitude * signs / torch.tensor(deviations).double()[:, None, None]


def test_steps_are_openood_s_with_normalised_images_whatever_it_divides_them_by(network):
    mean, std, magnitude = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3], 0.03
    network.double().eval()
    images, whole = IMAGES.double(), Normalized(network, mean, std).double()
    normalised = ((images - whole.mean) / whole.std).requires_grad_()
    for deviations, probe in [
        (std, OdinProbe((10.0,), (magnitude,))),
        ([0.5] * 3, ScaledOdinProbe((10.0,), (magnitude,), [one / 0.5 for one in std])),
    ]:
        logits = network(normalised) / 10
        moved = openood_s(cross_entropy(logits, logits.argmax(1)), normalised, magnitude, deviations)
        expected = (network(moved) / 10).softmax(1).amax(1)
        assert_close(probe(whole, images)[:, 0], expected, rtol=1e-6, atol=0)
    batches = batches_of((TRAIN[0].double(), TRAIN[1]))
    probe = MahalanobisProbe((magnitude,), ["network.0"], [one / 0.5 for one in std]).prepare(whole, batches)
    gaussian = probe.gaussians["network.0"]
    confidence = gaussian.confidence(encoder(network, 0)(normalised))
    moved = openood_s((-confidence).mean(), normalised, magnitude, [0.5] * 3)
    assert_close(probe(whole, images)[:, 0], gaussian.confidence(encoder(network, 0)(moved)), rtol=1e-6, atol=0)
    with pytest.raises(Refusal, match=r"`channel_steps` should have a factor for each channel of the images, 3"):
        ScaledOdinProbe(channel_steps=[1.0])(whole, images)


def test_a_very_sure_network_still_has_a_direction(network):
    """In float32 softmax gives exactly 1 there, and cross entropy's own gradient is exactly 0."""
    network.eval()
    with torch.no_grad():
        network[6].weight *= 1000
    images = IMAGES.clone().requires_grad_()
    logits = network(images)
    sure = (logits.softmax(1) == 1).any(1)
    found = _signs(images, logits, 1.0)[sure]
    images = IMAGES.double().requires_grad_()
    expected = _signs(images, network.double()(images), 1.0)[sure]
    assert sure.sum() > 3
    assert (found == expected).double().mean() > 0.999
    assert signs_of(torch.tensor([2.0, 0.0, -0.0, -1e-40])).tolist() == [1, 1, 1, -1], "zero counts as positive"


def encoder(network, layer):
    return lambda images: network[: int(layer) + 1](images).mean((2, 3))


def batches_of(data, size=64):
    return list(zip(data[0].split(size), data[1].split(size), strict=True))


def prepared(network, magnitudes=MAGNITUDES, layers=LAYERS, batches=None):
    return MahalanobisProbe(magnitudes, layers).prepare(network, batches or batches_of(TRAIN))


def plain_column(network, layer, magnitude):
    """One feature layer's confidences after the step, one image at a time, with scikit-learn's precision."""
    with torch.no_grad():
        features = encoder(network, layer)(TRAIN[0].double())
    means = torch.stack([features[TRAIN[1] == label].mean(0) for label in range(4)])
    precision = torch.from_numpy(EmpiricalCovariance().fit((features - means[TRAIN[1]]).numpy()).precision_)

    def confidence(image):
        centred = encoder(network, layer)(image)[:, None] - means
        return -0.5 * torch.einsum("ncd,de,nce->nc", centred, precision, centred).min()

    leaves = [image.clone().requires_grad_() for image in IMAGES.double().split(1)]
    found = [confidence(moved(leaf, -confidence(leaf), magnitude)).item() for leaf in leaves]
    return torch.tensor(found, dtype=torch.float64)


def test_mahalanobis_is_scikit_learn_s_and_plain_autograd_s(network):
    probe = prepared(network.double(), batches=batches_of((TRAIN[0].double(), TRAIN[1])))
    values = probe(network, IMAGES.double())
    network.eval()
    expected = torch.stack([plain_column(network, layer, m) for layer in LAYERS for m in MAGNITUDES], 1)
    assert_close(values, expected, rtol=1e-8, atol=0)


def test_mahalanobis_is_pytorch_ood_s(network):
    """Its covariance is not divided by the number of images."""
    values = prepared(network)(network, IMAGES)
    network.eval()
    for layer, columns in zip(LAYERS, values.T.split(len(MAGNITUDES)), strict=True):
        judges = [MahalanobisODIN(encoder(network, layer), eps=magnitude) for magnitude in MAGNITUDES[1:]]
        for column, judge in zip(columns, [Mahalanobis(encoder(network, layer)), *judges], strict=True):
            scores = judge.to("cpu").fit(batches_of(TRAIN)).predict(IMAGES).detach()
            assert_close(-column / len(TRAIN[0]), scores.double(), rtol=2e-3, atol=0)


def test_batches_of_any_size_and_order_give_the_same_also_in_inference_mode(network):
    (images, labels), expected = TRAIN, prepared(network)(network, IMAGES)
    for size in (1, 7, 200):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(size))
        probe = prepared(network, batches=batches_of((images[order], labels[order]), size))
        assert_close(probe(network, IMAGES), expected, rtol=1e-4, atol=0)
    with torch.inference_mode():
        found = prepared(network, batches=batches_of((images.clone(), labels.clone())))(network, IMAGES.clone())
    assert torch.equal(found, expected)


def gaussian_of(features, labels):
    moments = Moments(3)
    moments.add(features, labels)
    return moments.gaussian()


def test_directions_without_variance_are_left_out_and_classes_without_images():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 3, generator=generator, dtype=torch.float64), torch.arange(60) % 3
    dead = torch.cat([features, torch.ones(60, 2, dtype=torch.float64), features.sum(1, keepdim=True)], 1)
    found, expected = gaussian_of(dead, labels), gaussian_of(features, labels).confidence(features)
    assert found.directions.shape == (6, 3)
    assert_close(found.confidence(dead), expected, rtol=1e-8, atol=0)
    far = gaussian_of(features + 1e6, labels)  # loses no digits
    assert_close(far.confidence(features + 1e6), expected, rtol=1e-6, atol=0)
    assert gaussian_of(features + 5, labels % 2 * 2).centres.shape == (2, 3), "class 1 is never the closest"


def test_an_error_half_way_through_the_training_images_leaves_the_network_as_it_was(network):
    before = state_of(network)
    with pytest.raises(RuntimeError):
        MahalanobisProbe(layers=LAYERS).prepare(network, [*batches_of(TRAIN), (IMAGES[:, :2], TRAIN[1][:12])])
    assert state_of(network) == before
