"""How many images after a drift begins `metrics.DriftTest` raises its alarm: medians over simulated streams.

    python -m benchmarks.drift_delays

Scores as usual are standard normal; a dash stands for no alarm within 1,500 images in at least half of the streams.
"""

import argparse
import sys

import numpy as np

from lightning_gradood.metrics import DriftTest

LENGTH = 1500
DRIFTS = {
    "scores + 1": lambda rng, usual: usual + 1,
    "scores + 0.5": lambda rng, usual: usual + 0.5,
    "scores - 0.5": lambda rng, usual: usual - 0.5,
    "10 % outliers": lambda rng, usual: np.where(rng.random(len(usual)) < 0.1, 6.0, usual),
    "3 % outliers": lambda rng, usual: np.where(rng.random(len(usual)) < 0.03, 6.0, usual),
}


def delay(drift: str, references: int, quiet: int, streams: int = 15) -> str:
    """Median number of images from the drift's start to the alarm, with `references` scores and `quiet` images before."""
    found = []
    for seed in range(streams):
        rng = np.random.default_rng(seed)
        reference, before, usual = (rng.normal(size=size) for size in (references, quiet, LENGTH))
        alarm = DriftTest(reference, 0.01).after(np.concatenate([before, DRIFTS[drift](rng, usual)])).alarm
        found.append(alarm - quiet if alarm else np.inf)
    middle = float(np.median(found))
    return f"{middle:.0f}" if np.isfinite(middle) else "-"


def main() -> None:
    """Print a row for each drift and number of references, with a column for each length of the quiet time."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    quiets = (0, 500, 5000)
    sys.stdout.write(f"{'drift':<15}{'references':>12}" + "".join(f"{f'after {one}':>12}" for one in quiets) + "\n")
    for drift in DRIFTS:
        for references in (100, 400, 4000):
            row = "".join(f"{delay(drift, references, quiet):>12}" for quiet in quiets)
            sys.stdout.write(f"{drift:<15}{references:>12}{row}\n")


if __name__ == "__main__":
    main()
