"""The verb `attack`: audit a guard by attackers who know it. Lightning is not imported, and for `--help` torch is not."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import PositiveInt

from lightning_gradood.cli.plain import SWITCH, plain

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` needs none of it
    from torch import Tensor

    from lightning_gradood.guard import Guard


@plain(
    "Each attack knows network, detector and threshold. What it finds is judged by the guard itself; robustness.json in the "
    "guard's folder says what was reached and what may be relied on.",
    images={"nargs": "+", "type": str},
    eps={"nargs": "+", "type": float},
    attacks={"nargs": "+", "type": str},
    overwrite=SWITCH,
    trust={"action": "append", "type": str},
)
def attack(
    images: list[str],
    *,
    guard: str,
    goal: Literal["evade", "hide", "alarm"] = "evade",
    eps: list[float] | None = None,
    norm: Literal["linf", "l2"] = "linf",
    attacks: list[str] | None = None,
    steps: PositiveInt = 100,
    restarts: PositiveInt = 1,
    limit: PositiveInt = 200,
    batch_size: PositiveInt = 8,
    seed: int = 0,
    overwrite: bool = False,
    device: str = "cpu",
    trust: list[str] | None = None,
) -> None:
    """Attack a guard's classifier and detector at once, and write its robustness card.

    Args:
        images: files, folders or patterns; a folder named like a class holds images of this class, for others the
            classifier's prediction stands. For --goal hide anomalous images.
        guard: folder that `detect` has saved: runs/<experiment>/<time>/guard.
        goal: evade, the classifier errs and the image is not flagged; hide, an anomalous image is not flagged; alarm, a normal
            image is flagged.
        eps: largest changes, of pixels in [0, 1] for linf; by default 1, 2, 4 and 8 of 255 grey levels.
        norm: linf, the largest change of a pixel, or l2, the Euclidean length of the change.
        attacks: of joint, selective, orthogonal and queries; by default all that have this goal.
        steps: of each walk; queries asks five times as often.
        restarts: times that each attack looks.
        limit: images that are attacked, evenly spaced among all by name.
        batch_size: images attacked together, which bounds the memory.
        seed: of random starts.
        overwrite: replace the guard's card.
        device: where the network runs, e.g. cuda.
        trust: a package of yours whose classes the guard may name; may be given several times.
    """
    from lightning_gradood.audit import ATTACKS, CARD, RADII, Audit
    from lightning_gradood.core import Refusal
    from lightning_gradood.guard import Guard
    from lightning_gradood.report import card_table

    if (card := Path(guard) / CARD).exists() and not overwrite:
        raise Refusal(f"`--guard` should be a guard without a card of an earlier audit. Got {card}. Add --overwrite.")
    names = [one.name for one in ATTACKS]
    if unknown := [name for name in attacks or [] if name not in names]:
        raise Refusal(f"`--attacks` should be some of {', '.join(names)}. Got {unknown[0]}.")
    chosen = [one.with_steps(steps) for one in ATTACKS if one.name in (attacks or names)]
    loaded = Guard.load(guard, trust or (), device)
    settings = Audit(goal, eps or RADII, norm, chosen, restarts, batch_size=batch_size, seed=seed)
    found = loaded.audit(*_labelled(loaded, images, limit), settings)
    place = found.save(guard)
    weak = "".join(f"The audit is too weak: {one.question} No.\n" for one in found.checks if not one.passed)
    sys.stdout.write(f"{card_table(found).text()}\n{weak}{found.sentence}\n{place}\n")


def _labelled(guard: "Guard", places: list[str], limit: int) -> tuple["Tensor", "Tensor | None"]:
    """Images as the network takes them, and the classes of their folders where all are named like classes."""
    import torch

    from lightning_gradood.core import Refusal, as_float, printable, say
    from lightning_gradood.guard import image_paths

    found = sorted(image_paths(places))
    limit = min(limit, len(found))
    paths = [found[number * len(found) // limit] for number in range(limit)]
    if not paths:
        raise Refusal(f"IMAGES should be files, folders or patterns. Got no image in {printable(places[0])}.")
    pictures = torch.stack([as_float(guard.read(path)).float() for path in paths])
    classes = list(guard.about.classes)
    folders = [Path(path).parent.name for path in paths]
    if all(name in classes for name in folders):
        return pictures, torch.tensor([classes.index(name) for name in folders])
    say("Some images lie in no folder named like a class: the classifier's predictions stand for labels.")
    return pictures, None
