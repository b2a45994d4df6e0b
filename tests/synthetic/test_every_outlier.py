"""What holds for every synthetic outlier: pixels, one image alone, its id's random numbers; and some against other libraries."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import gaussian_blur, solarize

from lightning_gradood import synthetic
from lightning_gradood.attacks import FGSM
from lightning_gradood.core import Refusal
from lightning_gradood.networks import CifarResNet, Normalized
from lightning_gradood.synthetic import (
    Blur,
    BoundarySteps,
    ChannelPermutation,
    EuclideanSteps,
    PatchShuffle,
    Rotation,
    SignNoise,
    SignStep,
    Solarise,
    SurerSteps,
    SyntheticOutlier,
    TargetSteps,
    default_outliers,
)

EVERY = pytest.mark.parametrize("outlier", default_outliers(), ids=lambda outlier: outlier.name)
IDS = ["normal/a", "normal/b", "normal/c", "normal/d"]
DRAWS_NOTHING = {
    "overlay",
    "boundary_steps",
    "rotation",
    "channel_permutation",
}  # or so little that two seeds may agree


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Normalized(CifarResNet(1, num_classes=4), [0.5] * 3, [0.25] * 3).eval()


def images(channels=3, height=16, width=16):
    return torch.rand(len(IDS), channels, height, width, generator=torch.Generator().manual_seed(1))


def crafted(outlier, network, pixels, ids=IDS):
    return outlier.craft(network, pixels, torch.full((len(pixels),), -1), ids).images


def linear(channels, height, width):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * height * width, 3))


def test_every_kind_is_among_the_default_ones():
    kinds = {one for one in vars(synthetic).values() if isinstance(one, type) and issubclass(one, SyntheticOutlier)}
    abstract = {synthetic.SyntheticOutlier, synthetic.GradientOutlier}
    assert {type(outlier) for outlier in default_outliers()} == kinds - abstract


@EVERY
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8), (3, 12, 19), (4, 33, 32)], ids=str)
def test_it_makes_other_pixels_of_any_shape(outlier, shape):
    pixels = images(*shape)
    found = crafted(outlier, linear(*shape), pixels)
    assert found.shape == pixels.shape
    assert found.dtype == pixels.dtype
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    changed = (found != pixels).flatten(1).any(1)
    assert changed.all() or (outlier == ChannelPermutation() and shape[0] == 1 and not changed.any())


@EVERY
def test_it_depends_on_its_own_image_and_id_alone(outlier, network):
    pixels = images()
    together = crafted(outlier, network, pixels)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(crafted(outlier, network, pixels[order], [IDS[row] for row in order]), together[order])
    for row, name in enumerate(IDS):
        torch.testing.assert_close(crafted(outlier, network, pixels[[row]], [name]), together[[row]])


@EVERY
def test_another_seed_draws_other_numbers_and_the_global_ones_stay(outlier, network):
    before = torch.get_rng_state()
    first, again = (crafted(outlier, network, images()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    other = crafted(replace(outlier, seed=7), network, images())
    assert outlier.name in DRAWS_NOTHING or not torch.equal(first, other)


@EVERY
def test_it_asks_the_network_as_often_as_it_says(outlier, network):
    calls = []
    network.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    outlier.craft(network, images(), torch.zeros(len(IDS), dtype=torch.int64), IDS)
    assert len(calls) == outlier.passes


def test_a_sign_step_is_the_attack_of_that_name(network):
    pixels = images()
    with torch.no_grad():
        labels = network(pixels).argmax(1)
    expected = FGSM(eps=0.03).craft(network, pixels, labels, IDS).images
    torch.testing.assert_close(crafted(SignStep(low=0.03, high=0.03), network, pixels), expected)


def test_a_blur_is_torchvisions(network):
    sigma = 0.05 * 16
    expected = gaussian_blur(images(), [7, 7], [sigma, sigma])
    torch.testing.assert_close(crafted(Blur(0.05, 0.05), network, images()), expected, atol=1e-6, rtol=0)


def test_solarised_is_torchvisions(network):
    torch.testing.assert_close(crafted(Solarise(0.4, 0.4), network, images()), solarize(images(), 0.4))


def test_patches_and_channels_only_change_places(network):
    pixels = images()
    for outlier in (PatchShuffle(), Rotation(), ChannelPermutation()):
        found = crafted(outlier, network, pixels)
        torch.testing.assert_close(found.flatten(1).sort().values, pixels.flatten(1).sort().values)


def test_sign_noise_changes_each_pixel_by_one_amount(network):
    middle = torch.full((4, 3, 16, 16), 0.5)
    change = (crafted(SignNoise(), network, middle) - middle).abs().flatten(1)
    torch.testing.assert_close(change.amin(1), change.amax(1))
    assert len(set(change.amax(1).tolist())) == 4


def test_walks_go_where_they_should(network):
    pixels = images()
    with torch.no_grad():
        before = network(pixels)
        sure = network(crafted(SurerSteps(), network, pixels))
        near = network(crafted(BoundarySteps(), network, pixels))
        away = network(crafted(EuclideanSteps(), network, pixels))
        led = network(crafted(TargetSteps(low=0.05), network, pixels))
    assert (sure.logsumexp(1) > before.logsumexp(1)).all()
    two = near.topk(2).values
    assert (near.argmax(1) != before.argmax(1)).all()
    assert (two[:, 0] - two[:, 1] < 3 * BoundarySteps().beyond).all()
    predicted = before.argmax(1)
    assert (
        F.cross_entropy(away, predicted, reduction="none") > F.cross_entropy(before, predicted, reduction="none")
    ).all()
    assert (led.argmax(1) != predicted).any()


def test_steps_stay_within_their_distance(network):
    pixels = images()
    far = (crafted(EuclideanSteps(0.7, 0.7), network, pixels) - pixels).flatten(1).norm(dim=1)
    assert (far <= 0.7 * (pixels[0].numel() / 3072) ** 0.5 + 1e-5).all()
    for outlier in (TargetSteps(0.02, 0.02), SurerSteps(0.02, 0.02)):
        assert float((crafted(outlier, network, pixels) - pixels).abs().max()) <= 0.02 + 1e-6


def test_a_kind_of_ones_own_is_a_few_lines(network):
    @dataclass(frozen=True)
    class DarkCorner(SyntheticOutlier):
        seed: int = 0

        def make(self, images, draws):
            images[:, :, :4, :4] = 0
            return images

    found = DarkCorner()
    assert (found.name, found.passes) == ("dark_corner", 0)
    assert float(crafted(found, network, images())[:, :, :4, :4].max()) == 0


def test_one_that_needs_the_network_says_so_without():
    with pytest.raises(Refusal, match=r"`SignStep` should be given a network"):
        SignStep().make(images(), None)
