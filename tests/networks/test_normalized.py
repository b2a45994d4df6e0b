"""Pixels in, logits out: the wrapper normalises as the training did, and refuses what it cannot normalise."""

import pytest
import torch
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.networks import Normalized

MEAN, STD = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]


def test_normalises_each_channel_before_the_network():
    images = torch.rand(4, 3, 5, 6)
    expected = torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(Normalized(nn.Identity(), MEAN, STD)(images), expected)


def test_statistics_are_no_weights_but_follow_the_dtype():
    network = Normalized(nn.Conv2d(3, 2, 1), MEAN, STD)
    assert list(network.state_dict()) == ["network.weight", "network.bias"]
    assert [name for name, _ in network.named_parameters()] == ["network.weight", "network.bias"]
    assert network.double()(torch.rand(1, 3, 4, 4, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 4, 4, 4), (3, 4, 4), (2, 4, 4, 3), (2, 3)])
def test_other_channels_and_shapes_are_refused(shape):
    network = Normalized(nn.Identity(), MEAN, STD)
    words = (
        r"`images` should be \[N, 3, H, W\], one channel for each of the 3 values of `mean`\. "
        rf"Got `images\.shape = \[{', '.join(map(str, shape))}\]`\. Convert the images"
    )
    with pytest.raises(Refusal, match=words):
        network(torch.rand(shape))


def test_8_bit_pixels_are_refused():
    network = Normalized(nn.Identity(), MEAN, STD)
    with pytest.raises(Refusal, match=r"`images` should be floating .* Got `images.dtype = torch.uint8`\. Divide"):
        network(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (
            MEAN,
            [0.5],
            r"one value for each .* Got `mean = \[0\.1, 0\.2, 0\.3\]` and `std = \[0\.5\]`\. Give both",
        ),
        ([], [], r"one value for each image channel\. Got `mean = \[\]` and `std = \[\]`"),
        (MEAN, [0.5, 0.0, 1.0], r"`std` should be above zero .* Got `std = \[0\.5, 0\.0, 1\.0\]`\. Give"),
        (MEAN, [0.5, -1.0, 1.0], r"`std` should be above zero"),
        (MEAN, [0.5, 1e-60, 1.0], r"`std` should be above zero"),
        (MEAN, [0.5, float("nan"), 1.0], r"`std` should be above zero"),
        ([0.1, float("inf"), 0.3], STD, r"`mean` should be finite\. Got `mean = \[0\.1, inf, 0\.3\]`\. Give"),
    ],
)
def test_impossible_statistics_are_refused(mean, std, words):
    with pytest.raises(Refusal, match=words):
        Normalized(nn.Identity(), mean, std)
