"""The key of a cache entry changes with everything the entry depends on, and with nothing else."""

import hashlib

import pytest

from lightning_gradood.records import entry_key

INGREDIENTS = {
    "source": "svhn",
    "images": "ab12",
    "attack": None,
    "probe": {"probe": "GradientProbe", "name": "gradients/all_ones", "version": 1},
    "weights": "cd34",
    "dtype": "float32",
}


@pytest.mark.parametrize("name", INGREDIENTS)
def test_every_ingredient_changes_the_key(name):
    assert entry_key(INGREDIENTS | {name: "another"}) != entry_key(INGREDIENTS)
    assert entry_key({key: value for key, value in INGREDIENTS.items() if key != name}) != entry_key(INGREDIENTS)


def test_a_change_deep_inside_an_ingredient_changes_the_key():
    newer = INGREDIENTS["probe"] | {"version": 2}
    assert entry_key(INGREDIENTS | {"probe": newer}) != entry_key(INGREDIENTS)


def test_the_order_of_ingredients_does_not_matter():
    backwards = dict(reversed(INGREDIENTS.items()))
    backwards["probe"] = dict(reversed(INGREDIENTS["probe"].items()))
    assert entry_key(backwards) == entry_key(INGREDIENTS)


def test_the_key_is_the_sha256_of_canonical_json():
    assert entry_key({"b": 1, "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":1}').hexdigest()


def test_what_json_cannot_write_is_not_hidden_behind_its_default_text():
    with pytest.raises(TypeError, match="not JSON serializable"):
        entry_key({"weights": object()})
