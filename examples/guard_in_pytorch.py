"""A guard in a program of your own: python examples/guard_in_pytorch.py runs/folders/2026-11-26_14-05-09/guard photos/*.jpg"""

import sys

import torch

from lightning_gradood.core import as_float, read_picture
from lightning_gradood.guard import Guard

guard = Guard.load(sys.argv[1])
print(f"{guard.about.detector_name}, flags at most {guard.about.false_positive_rate:.0%} of normal images")

for verdict in guard.score_files(sys.argv[2:]):  # any files: the guard's own transform is applied
    if verdict.error is None:
        print(
            f"{verdict.path}: {verdict.prediction}, p-value {verdict.p_value:.3f}{' FLAGGED' if verdict.flagged else ''}"
        )

batch = torch.stack([as_float(guard.read(read_picture(path))) for path in sys.argv[2:]])
with torch.inference_mode():  # as in a server of yours
    print(guard(batch).flagged.tolist())
