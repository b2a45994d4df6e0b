"""Compare the engine with an independent truth, and with a training step's time, on families of timm and Hugging Face.

    OMP_NUM_THREADS=1 python -m benchmarks.zoo --families ViT BiT "HF ResNet"

Each network runs in a process of its own with a limit on time and memory. Zero and tiny parameters are randomised, so
that no gradient vanishes by itself. The error is the largest relative one in float64 over all images and tensors, against
plain autograd on two copies of each image with the first one's loss: on batches of one, torch 2.15's BatchNorm gives
wrong gradients where they arrive with unusual strides. A few of the truth's gradients are compared with central
differences. The ratio is the time in float32 to that of one batched forward and backward of all parameters (floor A).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.clock import interleaved
from benchmarks.contenders import all_ones, floor_a
from benchmarks.families import FAMILIES, build

IMAGES = 4
EXACT = 1e-8  # relative; a wrong formula is off by far more, float64's rounding by far less
DIFFERENCES = 1e-4
SINGLE = {"EfficientViT (MIT)"}  # compute their attention in float32 whatever their dtype: compared to its rounding


def main() -> None:
    """Run the chosen families and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved runs; the median counts; 0 for no times")
    parser.add_argument("--whole", action="store_true", help="time the networks at their authors' image size")
    parser.add_argument("--no-truth", action="store_true", help="times only")
    parser.add_argument("--seconds", type=int, default=300, help="limit for one family")
    parser.add_argument("--gigabytes", type=int, default=5, help="limit for one family's data")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/zoo.json"))
    settings = parser.parse_args()
    torch.set_num_threads(1)
    import_module("timm")
    results = {}
    for family in settings.families:
        results[family] = _apart(family, settings)
        print(line(family, results[family]), flush=True)
        settings.out.write_text(json.dumps(results, indent=2) + "\n")
    print(summary(results))
    print(f"written to {settings.out}")


def _apart(family: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Examine a family in a process of its own."""
    context = multiprocessing.get_context("fork")  # which has torch and timm imported already
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(theirs, family, settings))
    process.start()
    theirs.close()
    try:
        if not ours.poll(settings.seconds):
            return {"way": "traceback", "reason": f"longer than {settings.seconds} s"}
        result: dict[str, Any] = ours.recv()
    except EOFError:
        return {"way": "traceback", "reason": "the process died"}
    finally:
        process.kill()
        process.join()
    return result


def _in_child(pipe: Any, family: str, settings: argparse.Namespace) -> None:
    size = settings.gigabytes * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    pipe.send(examined(family, settings))


def examined(family: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Way taken, error and ratio of one family."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    result: dict[str, Any] = {}
    try:
        network, size = build(family)
        result["size"] = size
        randomise(network)
        if not settings.no_truth:
            images = torch.rand(IMAGES, 3, size, size, dtype=torch.float64)
            result |= compared(network.double(), images, rounded=family in SINGLE)
            network.float()
        if settings.rounds:
            if settings.whole:
                network, size = build(family, whole=True)
                randomise(network)
            result = (
                timed(network, torch.rand(IMAGES, 3, size, size), settings.rounds) | result
            )  # the truth has the last word
    except Exception as error:  # a failure is a result
        result |= {"way": "traceback", "reason": f"{type(error).__name__}: {error}".splitlines()[0]}
    return result


def randomise(network: nn.Module) -> None:
    """Give statistics, and parameters that are zero, tiny or constant, values that a wrong formula cannot survive."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        for parameter in network.parameters():
            low, high = parameter.aminmax()
            if max(-low, high) < 1e-2:
                parameter.normal_(0, 0.1)
            elif low == high:
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))


def compared(network: nn.Module, images: Tensor, rounded: bool = False) -> dict[str, Any]:
    """Way taken and largest relative error in float64; `rounded` where parts of the network are in float32 all the same."""
    from lightning_gradood.gradients import parameter_names, squared_gradient_norms

    start = time.perf_counter()
    found = squared_gradient_norms(network, images)
    first = time.perf_counter() - start
    result = way(network, images) | {"first call": first}
    truth, difference = true_norms(network, images)
    error = (found - truth).abs() / (truth + 1e-20 * truth.amax(1, keepdim=True))
    worst = int(error.amax(0).argmax())
    result |= {"error": float(error.max()), "worst": parameter_names(network)[worst], "differences": difference}
    if not result["error"] <= (1e-5 if rounded else EXACT) or not (rounded or difference <= DIFFERENCES):
        result["way"] = "WRONG"
    return result


def way(network: nn.Module, images: Tensor) -> dict[str, Any]:
    """Which way images of this number and shape were computed by now, and if not by closed forms, why."""
    from lightning_gradood.gradients import squared_gradient_norms, way_taken

    squared_gradient_norms(network, images)
    told = way_taken(network, images)
    return (
        {"way": "fast", "reason": ""} if told == "closed forms" else {"way": "loop", "reason": told.split(": ", 1)[1]}
    )


def true_norms(network: nn.Module, images: Tensor) -> tuple[Tensor, float]:
    """The truth, float64 [N, L], and how far its own gradients are from central differences, relatively."""
    parameters = list(network.requires_grad_(True).parameters())
    rows = []
    for image in images:
        forget(network)
        loss = all_ones(network(torch.stack([image, image])))[0]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        rows.append([0.0 if gradient is None else float(gradient.square().sum()) for gradient in gradients])
    used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    chosen = used[:: max(1, len(used) // 8)]
    return torch.tensor(rows, dtype=torch.float64), max(_off(network, image, p, g) for p, g in chosen)


@torch.no_grad()
def _off(network: nn.Module, image: Tensor, parameter: Tensor, gradient: Tensor) -> float:
    """Deviation along the gradient and a random direction together, relative to the gradient's norm.

    The best of three steps counts: a large one may cross a ReLU's kink, a small one drowns in rounding.
    """
    if not gradient.norm() > 1e-12:
        return 0.0
    chance, before = torch.randn_like(parameter), parameter.clone()
    direction = gradient / gradient.norm() + chance / chance.norm()
    deviations = []
    for step in (1e-5, 1e-7, 1e-8):
        losses = []
        for signed in (step, -step):
            parameter.copy_(before + signed * direction)
            forget(network)
            losses.append(float(all_ones(network(torch.stack([image, image])))[0]))
        difference = (losses[0] - losses[1]) / (2 * step)
        rounding = 1e-15 * abs(losses[0]) / step
        deviation = abs(difference - float((direction * gradient).sum())) - rounding
        deviations.append(max(0.0, deviation) / float(gradient.norm()))
    parameter.copy_(before)
    return min(deviations)


def forget(network: nn.Module) -> None:
    """Let networks that cache tensors made of parameters make them anew."""
    network.train()
    network.eval()


def timed(network: nn.Module, images: Tensor, rounds: int) -> dict[str, Any]:
    """Time in float32 by that of floor A."""
    from lightning_gradood.gradients import squared_gradient_norms

    floor = floor_a(network)

    def plain() -> None:
        forget(network)
        floor(images)

    def ours() -> None:
        forget(network)
        squared_gradient_norms(network, images)

    works = {"floor A": plain, "ours": ours}
    for work in works.values():
        work()
    seconds = interleaved(works, rounds, "cpu")
    return {"ratio": seconds["ours"] / seconds["floor A"], "timed size": images.shape[-1], **way(network, images)}


def line(family: str, result: dict[str, Any]) -> str:
    """One family in one line."""
    numbers = f"{result.get('error', float('nan')):9.1e}{result.get('differences', float('nan')):9.1e}"
    ratio = f"{result['ratio']:7.2f}" if "ratio" in result else f"{'–':>7}"
    return f"{family:20}{result.get('size', 0):4}  {result['way']:10}{numbers}{ratio}  {result.get('reason', '')[:110]}"


def summary(results: dict[str, dict[str, Any]]) -> str:
    """How many families went which way, and the slowest."""
    ways = [result["way"] for result in results.values()]
    counted = ", ".join(f"{ways.count(way)} {way}" for way in ("fast", "loop", "WRONG", "traceback"))
    ratios = sorted(result["ratio"] for result in results.values() if "ratio" in result)
    median = f"; median ratio {ratios[len(ratios) // 2]:.2f}" if ratios else ""
    return f"{len(ways)} families: {counted}{median}"


if __name__ == "__main__":
    main()
