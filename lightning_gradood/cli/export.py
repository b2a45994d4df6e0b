"""The verb `export`: write a guard as one ONNX file. Lightning is not imported, and for `--help` torch is not."""

import itertools
import sys
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import OpenUnitInterval

from lightning_gradood.cli.plain import SWITCH, plain, refuse_existing

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` needs none of it
    from torch import Tensor

    from lightning_gradood.guard import Guard

_MOST = 64  # images that are compared


@plain(
    "Input: images [N, C, H, W] after the guard's transform, and optionally false_positive_rate. Output: prediction, "
    "probability, score, p_value and flagged. Classes and transform are in the metadata. Needs the extra `export`.",
    images={"nargs": "+", "type": str},
    by_class=SWITCH,
    overwrite=SWITCH,
    trust={"action": "append", "type": str},
)
def export(
    output: str,
    *,
    guard: str,
    images: list[str] | None = None,
    pixels: Literal["uint8", "float32"] | None = None,
    false_positive_rate: OpenUnitInterval | None = None,
    by_class: bool = False,
    overwrite: bool = False,
    trust: list[str] | None = None,
) -> None:
    """Write the file once onnxruntime gives the same verdicts with it.

    Args:
        output: the file, guard.onnx.
        guard: folder that `detect` has saved: runs/<experiment>/<time>/guard.
        images: files, folders or patterns to compare on, 64 at most; by default the guard's calibration images, where they
            are files. Random images are added.
        pixels: of the input, uint8 from 0 to 255 or float32 in [0, 1]; by default as the guard's transform gives them.
        false_positive_rate: share of normal images that may be flagged where the input is left out.
        by_class: keep the false-positive rate for each predicted class, as for `score`.
        overwrite: replace the output if it exists.
        trust: a package of yours whose classes the guard may name; may be given several times.
    """
    from lightning_gradood.core import Refusal, atomic_write
    from lightning_gradood.guard import Guard, export_guard, guard_folder, unexportable

    refuse_existing("OUTPUT", Path(output), overwrite)
    loaded = Guard.load(guard, trust or ())
    if false_positive_rate is not None:
        loaded = loaded.with_false_positive_rate(false_positive_rate)
    if by_class:
        loaded = loaded.with_class_thresholds()
    try:
        found = export_guard(loaded, _compared(loaded, images or []), pixels)
    except Refusal as refusal:
        if not unexportable(loaded.saved):
            raise
        raise Refusal(f"{refusal} {_nearest(guard_folder(guard).parent, trust or ())}") from refusal
    with atomic_write(Path(output), "OUTPUT") as file:
        file.write(found.content)
    shape = ", ".join(map(str, loaded.about.image_shape))
    sys.stdout.write(
        f"{output}: {len(found.content) / 1e6:.1f} MB, images {found.pixels} [N, {shape}]. On {found.images} images onnxruntime "
        f"flags the same; scores differ by {found.difference:.1g} at most.\n"
    )


def _compared(guard: "Guard", images: list[str]) -> "Tensor":
    """Images as the network takes them: those that are named, or the calibration images that are still files."""
    import torch

    from lightning_gradood.core import Refusal
    from lightning_gradood.guard import image_paths

    known = zip(guard.known.names, guard.known.parts, strict=True)
    own = [name for name, part in known if part == "val" and Path(name).is_file()]
    paths = list(itertools.islice(image_paths(images) if images else own, _MOST))
    if images and not paths:
        raise Refusal(
            f"`--images` should be image files or folders of them. Got none in {', '.join(images)}. Name others."
        )
    if not paths:
        sys.stderr.write("The calibration images are not files: random ones are compared. Name others with --images.\n")
    return torch.stack([guard.read(path) for path in paths]) if paths else torch.empty(0, *guard.about.image_shape)


def _nearest(run: Path, trust: list[str] | tuple[()]) -> str:
    """The detector of the guard's run with the highest AUROC of those that can be exported, in a sentence."""
    from lightning_gradood.core import Refusal
    from lightning_gradood.detectors import load_detector
    from lightning_gradood.guard import unexportable
    from lightning_gradood.report import Run

    found = dict[str, list[float]]()
    if (run / "results.parquet").is_file():
        usable = set[str]()
        for path in run.glob("detectors/*/*.safetensors"):
            with suppress(Refusal):  # of a package that is not trusted, or not there
                usable |= set() if unexportable(load_detector(path, trust)) else {path.stem}
        for one in Run.read(run).outcomes:
            if one.detector in usable and "auroc" in one.metrics["val"]:
                found.setdefault(one.detector, []).append(one.metrics["val"]["auroc"])
    if not found:
        return "Run `detect` again with --detection.guard knn, or another of them."
    best = max(found, key=lambda name: mean(found[name]))
    return (
        f"The nearest in its run is `{best}`, mean AUROC {100 * mean(found[best]):.1f} % on `val`: run `detect` again with "
        f"--detection.guard {best}, which reads little anew."
    )
