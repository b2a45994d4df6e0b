"""How long metrics and the bootstrap take for a million scores.

OMP_NUM_THREADS=1 python -m benchmarks.metrics
"""

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np

from lightning_gradood.metrics import (
    CONVENTIONS,
    accuracy_at,
    auroc_interval,
    best_balanced_threshold,
    conventional_metrics,
    detection_metrics,
)


def main(arguments: list[str] | None = None) -> None:
    """Print the processor time of each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=1_000_000)
    parser.add_argument("--resamples", type=int, default=1000)
    given = parser.parse_args(arguments)
    total = 0.0
    for name, part in parts(given.scores, given.resamples).items():
        start = time.process_time()
        part()
        seconds = time.process_time() - start
        total += 0.0 if name.startswith("convention") else seconds
        print(f"{name:<42} {seconds:8.2f} s")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{'sum without conventions':<42} {total:8.2f} s; at most {memory:.1f} GiB in memory")


def parts(count: int, resamples: int) -> dict[str, Callable[[], object]]:
    """What is computed for each detector and source, on so many overlapping scores of both kinds."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    scores = rng.normal(labels)
    images = np.array([f"places/{row:07d}.jpg" for row in range(count)])
    half = np.arange(count) // 2
    origins = images[half]  # each image and its attacked version
    return {
        "detection_metrics": lambda: detection_metrics(scores, labels),
        "best_balanced_threshold": lambda: best_balanced_threshold(scores, labels),
        "accuracy_at": lambda: accuracy_at(scores, labels, 0.5),
        f"auroc_interval, {resamples} resamples": lambda: auroc_interval(scores, labels, images, resamples),
        f"the same, attacked versions with their images, {resamples}": lambda: auroc_interval(
            scores, labels, origins, resamples
        ),
        **{
            f"convention {name}": lambda name=name: conventional_metrics(scores, labels, name)  # type: ignore[misc]
            for name in CONVENTIONS
        },
    }


if __name__ == "__main__":
    main()
