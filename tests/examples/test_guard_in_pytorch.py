"""The example of a guard in a program of one's own runs as its first line says."""

import subprocess
import sys
from pathlib import Path

from guards import images, save
from torchvision.transforms.functional import to_pil_image

EXAMPLE = Path(__file__).parents[2] / "examples" / "guard_in_pytorch.py"


def test_it_prints_a_line_for_each_file_and_flags_for_the_batch(tmp_path):
    guard, *_ = save(tmp_path, "gradient_knn")
    pixels = (images(3, seed=8) * 255).round().byte()
    for row, one in enumerate(pixels):
        to_pil_image(one).save(tmp_path / f"{row}.png")
    files = [str(tmp_path / f"{row}.png") for row in range(3)]
    words = [sys.executable, "-W", "error", str(EXAMPLE), str(tmp_path / "guard"), *files]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "gradient_knn, flags at most 10% of normal images"
    assert [line.split(":")[0] for line in lines[1:4]] == files
    assert lines[4] == str(guard(pixels).flagged.tolist())
    assert [line.endswith("FLAGGED") for line in lines[1:4]] == guard(pixels).flagged.tolist()
