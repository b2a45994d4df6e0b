"""Named sets of attacks: the paper's probable settings, those of today's papers, and a pilot's; and negative images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override  # typing has it from Python 3.12 on

from lightning_gradood.core import Refusal
from lightning_gradood.perturbations.gradient_attacks import BIM, FGSM, PGD, CarliniWagner, IterLL
from lightning_gradood.perturbations.perturbation import Perturbation


@dataclass(frozen=True)
class Semantic(Perturbation):
    """Negative images, 1 − x; there is nothing to set, and the network is not run.

    Reference:
        Hosseini and Poovendran 2018, Semantic Adversarial Examples.
    """

    passes = 0

    @override
    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        return 1 - images, None


def preset(name: str) -> dict[str, Perturbation]:
    """Make the attacks of a named set.

    Args:
        name: "paper" (deep_Mahalanobis, the code of Lee et al. 2018, whose settings the paper most probably used),
            "modern" (those of today's robustness papers, ε = 8/255) or "pilot" (those of this package's first check).

    Returns:
        Attacks by their short names: fgsm, bim, pgd, cw, iterll, semantic; in "pilot" also fgsm_05, with ε = .05.

    Example:
        >>> list(preset("paper"))
        ['fgsm', 'bim', 'pgd', 'cw', 'iterll', 'semantic']
    """
    if name not in _PRESETS:
        raise Refusal(f"`preset` should be one of {', '.join(_PRESETS)}. Got `preset = {name!r}`. Choose one of these.")
    return _PRESETS[name]()


def _paper() -> dict[str, Perturbation]:
    return {
        "fgsm": FGSM(eps=0.05),
        "bim": BIM(eps=0.05, step=0.01, steps=6),
        "pgd": PGD(eps=0.05, step=0.01, steps=10),
        "cw": CarliniWagner(c=1.0, learning_rate=0.01, steps=100, searches=1),
        "iterll": IterLL(eps=8 / 255, step=1 / 255, steps=10),
        "semantic": Semantic(),
    }


def _modern() -> dict[str, Perturbation]:
    return {
        "fgsm": FGSM(eps=8 / 255),
        "bim": BIM(eps=8 / 255, step=2 / 255, steps=10),
        "pgd": PGD(eps=8 / 255, step=2 / 255, steps=40),
        "cw": CarliniWagner(c=1.0, learning_rate=0.01, steps=100, searches=5),
        "iterll": IterLL(eps=8 / 255, step=1 / 255, steps=10),
        "semantic": Semantic(),
    }


def _pilot() -> dict[str, Perturbation]:
    return {
        "fgsm": FGSM(eps=8 / 255),
        "fgsm_05": FGSM(eps=0.05),
        "bim": BIM(eps=0.05, step=0.01, steps=6),
        "pgd": PGD(eps=8 / 255, step=2 / 255, steps=20),
        "cw": CarliniWagner(c=1.0, learning_rate=0.01, steps=100, searches=1),
        "iterll": IterLL(eps=8 / 255, step=1 / 255, steps=12),
        "semantic": Semantic(),
    }


_PRESETS: dict[str, Callable[[], dict[str, Perturbation]]] = {"paper": _paper, "modern": _modern, "pilot": _pilot}
