"""The published parameters are complete, and chosen by the size of the image."""

import pytest

from lightning_gradood.corruptions import KINDS, parameters_for
from lightning_gradood.corruptions.corruption import CIFAR_10_C, IMAGENET_C, TINY_IMAGENET_C


@pytest.mark.parametrize("table", [CIFAR_10_C, TINY_IMAGENET_C, IMAGENET_C])
def test_every_kind_has_five_severities_of_as_many_settings(table):
    assert len(KINDS) == 15
    assert tuple(table) == KINDS
    for severities in table.values():
        assert len(severities) == 5
        assert len({len(settings) for settings in severities}) == 1
        assert len(set(severities)) == 5


@pytest.mark.parametrize(
    ("size", "table"),
    [
        ((1, 1), CIFAR_10_C),
        ((28, 28), CIFAR_10_C),
        ((45, 300), CIFAR_10_C),
        ((300, 45), CIFAR_10_C),
        ((46, 46), TINY_IMAGENET_C),
        ((64, 64), TINY_IMAGENET_C),
        ((119, 119), TINY_IMAGENET_C),
        ((120, 120), IMAGENET_C),
        ((500, 375), IMAGENET_C),
    ],
)
def test_the_set_with_the_nearest_size_is_used(size, table):
    assert all(parameters_for(kind, s, *size) == table[kind][s - 1] for kind in KINDS for s in (1, 2, 3, 4, 5))
