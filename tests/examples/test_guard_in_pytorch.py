"""The example of a guard in a program of one's own runs as its first line says."""

import sys
from pathlib import Path

from guards import images, save
from programs import run_program
from torchvision.transforms.functional import to_pil_image

EXAMPLE = Path(__file__).parents[2] / "examples" / "guard_in_pytorch.py"


def test_it_prints_a_line_for_each_file_and_flags_for_the_batch(tmp_path):
    guard, *_ = save(tmp_path, "gradient_knn")
    pixels = (images(3, seed=8) * 255).round().byte()
    files = [str(tmp_path / f"{row}.png") for row in range(3)]
    for one, file in zip(pixels, files, strict=True):
        to_pil_image(one).save(file)
    done = run_program([sys.executable, str(EXAMPLE), str(tmp_path / "guard"), *files])
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "gradient_knn, flags at most 10% of normal images"
    assert [line.split(":")[0] for line in lines[1:4]] == files
    assert lines[4] == str(guard(pixels).flagged.tolist())
    assert [line.endswith("FLAGGED") for line in lines[1:4]] == guard(pixels).flagged.tolist()
