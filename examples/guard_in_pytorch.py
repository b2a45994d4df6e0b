"""A guard in a program of your own: python examples/guard_in_pytorch.py runs/folders/2026-11-26_14-05-09/guard photos/*.jpg"""

import sys

import torch

from lightning_gradood import Guard

guard = Guard.load(sys.argv[1])
print(f"{guard.about.detector_name}, flags at most {guard.about.false_positive_rate:.0%} of normal images")

for verdict in guard.score_files(sys.argv[2:]):  # any files: the guard's own transform is applied
    if verdict.error is None:
        print(
            f"{verdict.path}: {verdict.prediction}, p-value {verdict.p_value:.3f}{' FLAGGED' if verdict.flagged else ''}"
        )

with torch.inference_mode():  # as in a server of yours; paths, PIL images or a tensor [N, C, H, W]
    print(guard(sys.argv[2:]).flagged.tolist())
