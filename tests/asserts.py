"""Properties that hold for everything of a kind, each written once."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lightning_gradood.detectors import Detector, load_detector, save_detector
from lightning_gradood.records import Records

_SCORE = """
import json, sys
import numpy as np
import pyarrow.parquet as pq
from lightning_gradood.detectors import load_detector
from lightning_gradood.records import Records
for name, (saved, records, scores) in json.loads(sys.argv[1]).items():
    np.save(scores, load_detector(saved).detector.score(Records(pq.read_table(records))))
"""


def assert_saved_scores_are_equal(fitted: Mapping[str, tuple[Detector, Records]], folder: Path) -> None:
    """A fresh process that loads each detector gives each record the score of the one that was saved, to the last bit.

    Args:
        fitted: by name, a fitted detector and records for it to score.
        folder: empty, for files.
    """
    files = {}
    for name, (detector, records) in fitted.items():
        saved, table, scores = (str(folder / f"{name}.{ending}") for ending in ("safetensors", "parquet", "npy"))
        save_detector(saved, detector, 0.5, records)
        pq.write_table(records.table, table)
        files[name] = (saved, table, scores)
    subprocess.run([sys.executable, "-c", _SCORE, json.dumps(files)], check=True)
    for name, (detector, records) in fitted.items():
        found, expected = np.load(files[name][2]), detector.score(records)
        assert (found.dtype, found.shape) == (np.float64, (len(records),)), name
        assert found.tobytes() == expected.tobytes(), name
        loaded = load_detector(files[name][0])
        assert type(loaded.detector) is type(detector), name
        assert loaded.detector.arguments == detector.arguments, name
        assert (loaded.flag(records) == (expected > 0.5)).all(), name
