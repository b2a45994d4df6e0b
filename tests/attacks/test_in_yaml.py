"""Every attack can be written in a configuration."""

from typing import Any

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from lightning_gradood.core import Perturbation

from .examples import ATTACKS, MOMENTUM, by_path

WRITTEN: dict[str, dict[str, Any]] = {
    "FGSM": {"eps": 0.03, "targeted": "next"},
    "BIM": {"eps": 0.03, "step": 0.01, "steps": 4, "stop_at_success": True},
    "PGD": {"random_start": False, "seed": 3},
    "CarliniWagner": {"confidence": 1.0, "searches": 5, "targeted": None},
    "IterLL": {"steps": 12},
    "Semantic": {},
    "AdvertorchAttack": {"attack": MOMENTUM, "settings": {"eps": 0.03, "nb_iter": 5}, "targeted": "least_likely"},
    "FunctionAttack": {"function": by_path("darker"), "eps": 0.2},
}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--attack", type=Perturbation)
    return parser


@pytest.mark.parametrize("name", WRITTEN)
def test_attacks_are_built_from_class_path_and_settings(name: str) -> None:
    parser = _parser()
    written = {"attack": {"class_path": f"lightning_gradood.attacks.{name}", "init_args": WRITTEN[name]}}
    attack = parser.instantiate(parser.parse_object(written)).attack
    assert type(attack).__name__ == name
    for setting, value in WRITTEN[name].items():
        assert getattr(attack, setting) == value


@pytest.mark.parametrize("name", ATTACKS)
def test_a_description_can_be_parsed(name: str) -> None:
    description = ATTACKS[name].describe()
    parser = _parser()
    written = {"attack": {"class_path": description["attack"], "init_args": description["settings"]}}
    assert parser.instantiate(parser.parse_object(written)).attack.describe() == description


def test_a_choice_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="least_likely"):
        _parser().parse_object(
            {"attack": {"class_path": "lightning_gradood.attacks.FGSM", "init_args": {"targeted": "cat"}}}
        )
