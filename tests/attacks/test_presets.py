"""The presets are the table that the package's results are compared by."""

import pytest

from lightning_gradood.attacks import BIM, FGSM, PGD, CarliniWagner, IterLL, Semantic, preset
from lightning_gradood.core import Refusal

TABLE = {
    "paper": {
        "fgsm": FGSM(0.05),
        "bim": BIM(0.05, 0.01, 6),
        "pgd": PGD(0.05, 0.01, 10, random_start=True),
        "cw": CarliniWagner(confidence=0.0, c=1.0, learning_rate=0.01, steps=100, searches=1),
        "iterll": IterLL(8 / 255, 1 / 255, 10),
        "semantic": Semantic(),
    },
    "modern": {
        "fgsm": FGSM(8 / 255),
        "bim": BIM(8 / 255, 2 / 255, 10),
        "pgd": PGD(8 / 255, 2 / 255, 40, random_start=True),
        "cw": CarliniWagner(confidence=0.0, c=1.0, learning_rate=0.01, steps=100, searches=5),
        "iterll": IterLL(8 / 255, 1 / 255, 10),
        "semantic": Semantic(),
    },
    "pilot": {
        "fgsm": FGSM(8 / 255),
        "fgsm_05": FGSM(0.05),
        "bim": BIM(0.05, 0.01, 6),
        "pgd": PGD(8 / 255, 2 / 255, 20, random_start=True),
        "cw": CarliniWagner(confidence=0.0, c=1.0, learning_rate=0.01, steps=100, searches=1),
        "iterll": IterLL(8 / 255, 1 / 255, 12),
        "semantic": Semantic(),
    },
}
PASSES = {
    "paper": [1, 6, 10, 100, 10, 0],
    "modern": [1, 10, 40, 500, 10, 0],
    "pilot": [1, 1, 6, 20, 100, 12, 0],
}


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_the_table(name: str) -> None:
    found = preset(name)
    assert list(found) == list(TABLE[name])
    for key, attack in TABLE[name].items():
        assert found[key].describe() == attack.describe()
    assert [attack.passes for attack in found.values()] == PASSES[name]


def test_defaults_are_paper() -> None:
    defaults = [FGSM(), BIM(), PGD(), CarliniWagner(), IterLL(), Semantic()]
    assert [attack.describe() for attack in defaults] == [attack.describe() for attack in preset("paper").values()]


def test_an_unknown_preset_is_refused_with_the_choices() -> None:
    with pytest.raises(Refusal, match=r"Got `preset = 'lee2018'`. Choose one of these; what was lee2018 is paper now"):
        preset("lee2018")
    with pytest.raises(Refusal, match=r"`preset` should be one of paper, modern, pilot. Got `preset = 'lee'`"):
        preset("lee")
