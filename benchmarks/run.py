"""Measure per-sample gradient norms against floors and peers: prints a table, writes JSON.

    OMP_NUM_THREADS=1 python -m benchmarks.run --networks resnet18 --batch 16 64

Ratios hold within one run only. A peer that is not installed, or that fails on a network, is reported as such.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import interleaved, peak_bytes
from benchmarks.contenders import CONTENDERS, EXACT
from benchmarks.networks import NETWORKS
from lightning_gradood.core import exact_arithmetic


def main() -> None:
    """Parse the command line, measure every network at every batch size, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet18", "densenet_bc_100_12"])
    parser.add_argument("--batch", nargs="+", type=int, default=[16, 64], help="images in one call")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs; the median counts")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory", action="store_true", help="measure peak memory too, each in a process of its own")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results.json"))
    settings = parser.parse_args()
    with exact_arithmetic():  # no TF32, which the norms refuse: for all alike
        compare(settings)


def compare(settings: argparse.Namespace) -> None:
    """Measure, print and write."""
    report: dict[str, Any] = {"machine": _machine(settings.device), "rounds": settings.rounds, "results": []}
    for network in settings.networks:
        for batch in settings.batch:
            result = measure(network, batch, settings)
            report["results"].append(result)
            print(table(result), flush=True)
    settings.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {settings.out}")


def measure(name: str, batch: int, settings: argparse.Namespace) -> dict[str, Any]:
    """Time every contender on one network and batch size, after checking that the exact ones agree."""
    works, failed, norms = {}, {}, {}
    for contender in settings.contenders:
        try:
            work = _prepared(name, batch, contender, settings.device)
            norms[contender] = work()  # also warms up, and makes the plan
            works[contender] = work
        except Exception as error:  # a peer's failure is a result
            failed[contender] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    seconds = interleaved(works, settings.rounds, settings.device)
    result: dict[str, Any] = {"network": name, "batch": batch, "seconds": seconds, "failed": failed}
    result["deviation"] = {key: _deviation(norms[key], norms["loop"]) for key in EXACT if {key, "loop"} <= set(norms)}
    if settings.memory:
        result["peak_bytes"] = {key: _peak_apart(name, batch, key, settings.device) for key in works}
    return result


def _prepared(name: str, batch: int, contender: str, device: str) -> Any:
    torch.manual_seed(0)
    build, size = NETWORKS[name]
    network, images = build().eval().to(device), torch.rand(batch, 3, size, size, device=device)
    work = CONTENDERS[contender](network)
    return lambda: work(images)


def _deviation(norms: torch.Tensor, truth: torch.Tensor) -> float:
    """Median relative difference from the loop's numbers."""
    return float(((norms - truth).abs() / truth.clamp_min(1e-30)).median())


def _peak_apart(name: str, batch: int, contender: str, device: str) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, batch, contender, device))


def _peak(name: str, batch: int, contender: str, device: str) -> int:
    torch.set_num_threads(1)
    return peak_bytes(_prepared(name, batch, contender, device), device)


def table(result: dict[str, Any]) -> str:
    """One line for each contender: ms per image, images/s, ratios to floor A, to floor B and to ours, peak memory."""
    seconds, batch = result["seconds"], result["batch"]
    lines = [
        f"\n{result['network']}, N = {batch}",
        f"{'':18}{'ms/image':>10}{'images/s':>10}{'÷ A':>8}{'÷ B':>8}{'÷ ours':>8}{'MB':>8}",
    ]
    for name, time in seconds.items():
        ratios = "".join(
            f"{time / seconds[base]:8.2f}" if base in seconds else f"{'–':>8}"
            for base in ("floor A", "floor B", "ours")
        )
        memory = f"{result['peak_bytes'][name] / 1e6:8.0f}" if "peak_bytes" in result else f"{'–':>8}"
        lines.append(f"{name:18}{1000 * time / batch:10.2f}{batch / time:10.1f}{ratios}{memory}")
    lines += [f"{name:18}{reason}" for name, reason in result["failed"].items()]
    return "\n".join(lines)


def _machine(device: str) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "device": device, "gpu": gpu, "torch": torch.__version__, "python": platform.python_version(),
        "threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
