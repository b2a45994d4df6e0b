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

IDS = ["normal/a", "normal/b", "normal/c", "normal/d"]
DRAWS_LITTLE = {"overlay", "boundary_steps", "rotation", "channel_permutation"}  # two seeds may agree


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Normalized(CifarResNet(1, num_classes=4), [0.5] * 3, [0.25] * 3).eval()


def images(channels=3, height=16, width=16):
    return torch.rand(len(IDS), channels, height, width, generator=torch.Generator().manual_seed(1))


def crafted(outlier, network, pixels=None, ids=IDS):
    pixels = images() if pixels is None else pixels
    return outlier.craft(network, pixels, torch.full((len(pixels),), -1), ids).images


def test_every_kind_is_among_the_default_ones():
    kinds = {one for one in vars(synthetic).values() if isinstance(one, type) and issubclass(one, SyntheticOutlier)}
    abstract = {synthetic.SyntheticOutlier, synthetic.GradientOutlier}
    assert {type(outlier) for outlier in default_outliers()} == kinds - abstract


@pytest.mark.parametrize("outlier", default_outliers(), ids=lambda outlier: outlier.name)
def test_it_makes_other_pixels_of_its_own_image_and_id_alone(outlier, network):
    """Of any shape, in any batch, order and memory layout; the global random numbers stay, and passes are as many as it says."""
    calls, before = [], torch.get_rng_state()
    hook = network.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    together = outlier.craft(network, images(), torch.zeros(len(IDS), dtype=torch.int64), IDS).images
    hook.remove()
    assert len(calls) == outlier.passes
    assert torch.equal(together, outlier.craft(network, images(), torch.zeros(len(IDS), dtype=torch.int64), IDS).images)
    assert torch.equal(torch.get_rng_state(), before)
    together, order = crafted(outlier, network), [2, 0, 3, 1]
    torch.testing.assert_close(crafted(outlier, network, images()[order], [IDS[row] for row in order]), together[order])
    for row, name in enumerate(IDS):
        torch.testing.assert_close(crafted(outlier, network, images()[[row]], [name]), together[[row]])
    last = images().to(memory_format=torch.channels_last)
    torch.testing.assert_close(crafted(outlier, network, last), together)
    assert outlier.name in DRAWS_LITTLE or not torch.equal(crafted(replace(outlier, seed=7), network), together)
    for shape in [(3, 16, 16), (1, 8, 8), (3, 12, 19), (4, 33, 32)]:
        torch.manual_seed(0)
        linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images(*shape)[0].numel(), 3))
        pixels = images(*shape)
        found = crafted(outlier, linear, pixels)
        assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        changed = (found != pixels).flatten(1).any(1)
        assert changed.all() or (outlier == ChannelPermutation() and shape[0] == 1 and not changed.any()), shape


def test_kinds_that_others_have_too_are_theirs(network):
    with torch.no_grad():
        labels = network(images()).argmax(1)
    expected = FGSM(eps=0.03).craft(network, images(), labels, IDS).images
    torch.testing.assert_close(crafted(SignStep(low=0.03, high=0.03), network), expected)
    blurred = gaussian_blur(images(), [7, 7], [0.05 * 16, 0.05 * 16])
    torch.testing.assert_close(crafted(Blur(0.05, 0.05), network), blurred, atol=1e-6, rtol=0)
    torch.testing.assert_close(crafted(Solarise(0.4, 0.4), network), solarize(images(), 0.4))


def test_patches_and_channels_only_change_places_and_sign_noise_is_one_amount(network):
    for outlier in (PatchShuffle(), Rotation(), ChannelPermutation()):
        found = crafted(outlier, network)
        torch.testing.assert_close(found.flatten(1).sort().values, images().flatten(1).sort().values)
    middle = torch.full((4, 3, 16, 16), 0.5)
    change = (crafted(SignNoise(), network, middle) - middle).abs().flatten(1)
    torch.testing.assert_close(change.amin(1), change.amax(1))
    assert len(set(change.amax(1).tolist())) == 4


def test_walks_go_where_they_should_and_stay_within_their_distance(network):
    steps = [SurerSteps(), BoundarySteps(), EuclideanSteps(), TargetSteps(low=0.05)]
    with torch.no_grad():
        before, sure, near, away, led = (
            network(pixels) for pixels in (images(), *(crafted(one, network) for one in steps))
        )
    predicted, two = before.argmax(1), near.topk(2).values
    assert (sure.logsumexp(1) > before.logsumexp(1)).all()
    assert (near.argmax(1) != predicted).all()
    assert (two[:, 0] - two[:, 1] < 3 * BoundarySteps().beyond).all()
    loss, loss_before = (F.cross_entropy(logits, predicted, reduction="none") for logits in (away, before))
    assert (loss > loss_before).all()
    assert (led.argmax(1) != predicted).any()
    far = (crafted(EuclideanSteps(0.7, 0.7), network) - images()).flatten(1).norm(dim=1)
    assert (far <= 0.7 * (images()[0].numel() / 3072) ** 0.5 + 1e-5).all()
    for outlier in (TargetSteps(0.02, 0.02), SurerSteps(0.02, 0.02)):
        assert float((crafted(outlier, network) - images()).abs().max()) <= 0.02 + 1e-6


def test_a_kind_of_ones_own_is_a_few_lines(network):
    @dataclass(frozen=True)
    class DarkCorner(SyntheticOutlier):
        seed: int = 0

        def make(self, images, draws):
            images[:, :, :4, :4] = 0
            return images

    found = DarkCorner()
    assert (found.name, found.passes) == ("dark_corner", 0)
    assert float(crafted(found, network)[:, :, :4, :4].max()) == 0
    with pytest.raises(Refusal, match=r"`SignStep` should be given a network"):
        SignStep().make(images(), None)
