"""Run by test_preparation_ddp.py: probe on two gloo processes with a probe that is prepared on the training images."""

import json
import os
import sys
import warnings
from pathlib import Path

from preparing_experiment import STEPPING, CountedProbe, trained_data
from small_experiment import probe, task


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore", "Total length of .* across ranks is zero")
    for run in ("first", "again"):
        counted = CountedProbe(STEPPING)
        callback = probe(folder / "cache", task(), trained_data(), [counted], strategy="ddp", devices=2)
        told = {"prepared": counted.prepared, "loaded": counted.loaded, "missing": len(callback.plan.missing)}
        (folder / f"{run}-{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
