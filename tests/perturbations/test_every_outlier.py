"""What holds for every synthetic outlier: pixels, one image alone, its id's random numbers; and some against other libraries."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torchvision.transforms.v2.functional import gaussian_blur, solarize

from lightning_gradood import perturbations as synthetic
from lightning_gradood.networks import CifarResNet, Normalized
from lightning_gradood.perturbations import FGSM, SyntheticOutlier, default_outliers

IDS = ["normal/a", "normal/b", "normal/c", "normal/d"]
DRAWS_LITTLE = {"overlay", "surroundings", "boundary_steps", "rotation", "channel_permutation"}  # two seeds may agree


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Normalized(CifarResNet(1, num_classes=4), [0.5] * 3, [0.25] * 3).eval()


def images(channels=3, height=16, width=16):
    return torch.rand(len(IDS), channels, height, width, generator=torch.Generator().manual_seed(1))


def crafted(outlier, network, pixels=None, ids=IDS, label=-1):
    pixels = images() if pixels is None else pixels
    return outlier.craft(network, pixels, torch.full((len(pixels),), label), ids).images


def test_every_kind_is_among_the_default_ones():
    kinds = {one for one in vars(synthetic).values() if isinstance(one, type) and issubclass(one, SyntheticOutlier)}
    abstract = {synthetic.SyntheticOutlier, synthetic.GradientOutlier}
    assert {type(outlier) for outlier in default_outliers()} == kinds - abstract


@pytest.mark.parametrize("outlier", default_outliers(), ids=lambda outlier: outlier.name)
def test_it_makes_other_pixels_of_its_own_image_and_id_alone(outlier, network):
    before = torch.get_rng_state()
    assert torch.equal(crafted(outlier, network, label=0), crafted(outlier, network, label=0))
    assert torch.equal(torch.get_rng_state(), before)
    together = crafted(outlier, network)
    for rows in ([2, 0, 3, 1], [0], [1], [2], [3]):
        assert_close(crafted(outlier, network, images()[rows], [IDS[row] for row in rows]), together[rows])
    assert_close(crafted(outlier, network, images().to(memory_format=torch.channels_last)), together)
    assert outlier.name in DRAWS_LITTLE or not torch.equal(crafted(replace(outlier, seed=7), network), together)
    for shape in [(3, 16, 16), (1, 8, 8), (3, 12, 19), (4, 33, 32)]:
        torch.manual_seed(0)
        pixels = images(*shape)
        linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels[0].numel(), 3))
        found = crafted(outlier, linear, pixels)
        assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        of_one_channel = outlier == synthetic.ChannelPermutation() and shape[0] == 1
        assert ((found != pixels).flatten(1).any(1) != of_one_channel).all(), shape


def test_kinds_that_others_have_too_are_theirs(network):
    with torch.no_grad():
        labels = network(images()).argmax(1)
    expected = FGSM(eps=0.03).craft(network, images(), labels, IDS).images
    assert_close(crafted(synthetic.SignStep(low=0.03, high=0.03), network), expected)
    blurred = gaussian_blur(images(), [7, 7], [0.05 * 16, 0.05 * 16])
    assert_close(crafted(synthetic.Blur(0.05, 0.05), network), blurred, atol=1e-6, rtol=0)
    assert_close(crafted(synthetic.Solarise(0.4, 0.4), network), solarize(images(), 0.4))


def test_patches_and_channels_only_change_places_and_sign_noise_is_one_amount(network):
    for outlier in (synthetic.PatchShuffle(), synthetic.Rotation(), synthetic.ChannelPermutation()):
        assert_close(crafted(outlier, network).flatten(1).sort().values, images().flatten(1).sort().values)
    middle = torch.full((4, 3, 16, 16), 0.5)
    change = (crafted(synthetic.SignNoise(), network, middle) - middle).abs().flatten(1)
    assert_close(change.amin(1), change.amax(1))
    assert len(set(change.amax(1).tolist())) == 4


def test_walks_go_where_they_should_and_stay_within_their_distance(network):
    walks = (
        synthetic.SurerSteps(),
        synthetic.BoundarySteps(),
        synthetic.EuclideanSteps(),
        synthetic.TargetSteps(low=0.05),
    )
    places = [images(), *(crafted(walk, network) for walk in walks)]
    with torch.no_grad():
        before, sure, near, away, led = map(network, places)
    predicted, two = before.argmax(1), near.topk(2).values
    assert (sure.logsumexp(1) > before.logsumexp(1)).all()
    assert (near.argmax(1) != predicted).all()
    assert (two[:, 0] - two[:, 1] < 3 * synthetic.BoundarySteps().beyond).all()
    loss, loss_before = (F.cross_entropy(logits, predicted, reduction="none") for logits in (away, before))
    assert (loss > loss_before).all()
    assert (led.argmax(1) != predicted).any()
    far = (crafted(synthetic.EuclideanSteps(0.7, 0.7), network) - images()).flatten(1).norm(dim=1)
    assert (far <= 0.7 * (images()[0].numel() / 3072) ** 0.5 + 1e-5).all()
    for outlier in (synthetic.TargetSteps(0.02, 0.02), synthetic.SurerSteps(0.02, 0.02)):
        assert float((crafted(outlier, network) - images()).abs().max()) <= 0.02 + 1e-6
