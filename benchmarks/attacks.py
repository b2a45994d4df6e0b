"""Measure what crafting costs above the passes that each attack's definition requires, beside foolbox and torchattacks.

    OMP_NUM_THREADS=1 python -m benchmarks.attacks --network resnet18 --batch 32

A pass is a plain forward and the backward to the input, on the same batch, with frozen parameters. Everything is timed in
interleaved rounds of one run, and ratios hold within it only. A peer that is not installed is reported as such.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.clock import interleaved
from benchmarks.networks import NETWORKS
from lightning_gradood.perturbations import BIM, FGSM, PGD, CarliniWagner, IterLL, Perturbation, Semantic

Work = Callable[[], object]
LIMITS = {"FGSM": 1.10, "BIM": 1.10, "PGD": 1.10, "IterLL": 1.10, "C&W": 1.25}


def main() -> None:
    """Parse the command line, measure every attack, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--attacks", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--batch", type=int, default=32, help="images in one call")
    parser.add_argument("--steps", type=int, default=10, help="of BIM, PGD, IterLL and C&W")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs; the median counts")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="a file for all numbers, as JSON")
    settings = parser.parse_args()
    network, images, labels = _problem(settings)
    results = []
    print(f"{settings.network}, N = {settings.batch}, {settings.device}: crafting ÷ (passes × plain pass)\n")
    print(f"{'':10}{'passes':>8}{'ours':>8}{'limit':>8}{'foolbox':>10}{'torchattacks':>14}{'ms/pass':>10}")
    chosen = attacks(settings.steps)
    for name in settings.attacks:
        result = measure(name, chosen[name], network, images, labels, settings)
        results.append(result)
        print(_line(result), flush=True)
    if settings.out:
        settings.out.write_text(
            json.dumps({"settings": vars(settings), "results": results}, indent=2, default=str) + "\n"
        )
        print(f"\nwritten to {settings.out}")


def attacks(steps: int) -> dict[str, Perturbation]:
    """The attacks whose passes are worth counting; ε does not matter for time."""
    return {
        "FGSM": FGSM(),
        "BIM": BIM(steps=steps),
        "PGD": PGD(steps=steps),
        "IterLL": IterLL(steps=steps),
        "C&W": CarliniWagner(steps=steps),
    }


def measure(
    name: str, attack: Perturbation, network: nn.Module, images: Tensor, labels: Tensor, settings: argparse.Namespace
) -> dict[str, Any]:
    """Time plain passes, our attack and the peers' in the same rounds."""
    frozen = network.requires_grad_(False)
    works: dict[str, Work] = {
        "plain": lambda: [plain_pass(frozen, images, labels) for _ in range(passes_of(attack))],
        "ours": lambda: attack.craft(network, images, labels),
    }
    failed = {}
    for peer, build in {"foolbox": foolbox_work, "torchattacks": torchattacks_work}.items():
        try:
            works[peer] = build(name, attack, frozen, images, labels)
        except (ImportError, AttributeError) as error:
            failed[peer] = str(error)
    for work in works.values():
        work()  # warms up
    seconds = interleaved(works, settings.rounds, settings.device)
    ratios = {work: seconds[work] / seconds["plain"] for work in works}
    return {"attack": name, "passes": passes_of(attack), "seconds": seconds, "ratios": ratios, "failed": failed}


def passes_of(attack: Perturbation) -> int:
    """Forward and input-gradient passes for each image that the attack's definition requires."""
    return int(getattr(attack, "steps", 1) * getattr(attack, "searches", 1)) if not isinstance(attack, Semantic) else 0


def plain_pass(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One forward and one backward to the input."""
    images = images.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(images), labels, reduction="sum"), images)[0]


def foolbox_work(name: str, attack: Any, network: nn.Module, images: Tensor, labels: Tensor) -> Work:
    """The same attack of foolbox."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a name that SciPy has moved
        import foolbox
    theirs, model = foolbox.attacks, foolbox.PyTorchModel(network, bounds=(0, 1))
    criterion = foolbox.criteria.Misclassification(labels)
    if name == "C&W":
        peer = theirs.L2CarliniWagnerAttack(
            binary_search_steps=1, steps=attack.steps, stepsize=0.01, initial_const=1.0, abort_early=False
        )
        return lambda: peer.run(model, images, criterion)
    if name == "FGSM":
        return lambda: theirs.LinfFastGradientAttack().run(model, images, criterion, epsilon=attack.eps)
    kind = theirs.LinfProjectedGradientDescentAttack if name == "PGD" else theirs.LinfBasicIterativeAttack
    peer = kind(abs_stepsize=attack.step, steps=attack.steps, random_start=name == "PGD")
    if name != "IterLL":
        return lambda: peer.run(model, images, criterion, epsilon=attack.eps)

    def towards_the_least_likely() -> object:
        with torch.no_grad():
            targets = network(images).argmin(1)
        return peer.run(model, images, foolbox.criteria.TargetedMisclassification(targets), epsilon=attack.eps)

    return towards_the_least_likely


def torchattacks_work(name: str, attack: Any, network: nn.Module, images: Tensor, labels: Tensor) -> Work:
    """The same attack of torchattacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the versions of its dependencies
        import torchattacks
    if name == "C&W":
        peer = torchattacks.CW(network, c=1, kappa=0, steps=attack.steps, lr=0.01)
    elif name == "FGSM":
        peer = torchattacks.FGSM(network, eps=attack.eps)
    elif name == "PGD":
        peer = torchattacks.PGD(network, eps=attack.eps, alpha=attack.step, steps=attack.steps)
    else:
        peer = torchattacks.BIM(network, eps=attack.eps, alpha=attack.step, steps=attack.steps)
    if name == "IterLL":
        peer.set_mode_targeted_least_likely(quiet=True)
    return lambda: peer(images, labels)


def _problem(settings: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    build, size = NETWORKS[settings.network]
    network = build().eval().to(settings.device)
    images = torch.rand(settings.batch, 3, size, size, device=settings.device)
    return network, images, network(images).argmax(1)


def _line(result: dict[str, Any]) -> str:
    ratios, passes = result["ratios"], result["passes"]
    foolbox, torchattacks = (f"{ratios[peer]:.3f}" if peer in ratios else "–" for peer in ("foolbox", "torchattacks"))
    name, ours, milliseconds = result["attack"], ratios["ours"], 1000 * result["seconds"]["plain"] / passes
    return f"{name:10}{passes:8}{ours:8.3f}{LIMITS[name]:8.2f}{foolbox:>10}{torchattacks:>14}{milliseconds:10.1f}"


if __name__ == "__main__":
    main()
