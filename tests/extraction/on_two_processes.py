"""Run by test_probing_on_two_processes.py: probe on two gloo processes, writing what each of them read and learnt."""

import json
import os
import sys
import warnings
from pathlib import Path

from small_experiment import STEPPING, CountedProbe, data, probe, task, trained_data

from lightning_gradood.attacks import PGD, IterLL
from lightning_gradood.corruptions import Corruption
from lightning_gradood.extraction.reading import ImageReader

RUNS = {"even": 12, "odd": 9, "again": 9, "resumed": 12}  # images of each source
PERTURBED = {  # PGD starts at random, fog is drawn at random: both by the image's id
    "attacks": {"pgd": PGD(eps=0.1, step=0.05, steps=3), "iterll": IterLL(eps=0.1, step=0.05, steps=3)},
    "corruptions": {"fog": Corruption("fog")},
    "noise_control": True,
    "limits": {"iterll": 10},
    "limit": 21,
}
FOLDERS = {"again": "odd"}  # reads what "odd" has written


def main(folder: Path) -> None:
    ids: list[str] = []
    read = ImageReader._read

    def noting(self, probes, images):
        ids.extend(images.ids)
        return read(self, probes, images)

    def tell(run, told):
        (folder / f"{run}-{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(told))

    ImageReader._read = noting
    warnings.filterwarnings("ignore", "Total length of .* across ranks is zero")
    two = {"strategy": "ddp", "devices": 2}
    for run, limit in RUNS.items():
        ids.clear()
        probe(folder / FOLDERS.get(run, run), task(), data(limit=limit), **two)
        tell(run, ids)
    probe(folder / "perturbed", task(), data(**PERTURBED), **two)
    for run in ("learning", "learnt"):
        counted = CountedProbe(STEPPING)
        plan = probe(folder / "prepared", task(), trained_data(), [counted], **two).plan
        tell(run, {"prepared": counted.prepared, "loaded": counted.loaded, "missing": len(plan.missing)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
