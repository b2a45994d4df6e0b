"""Guards: a classifier, its fitted detector and a threshold in one folder, which score any image.

`detect` saves a guard in `runs/<experiment>/<time>/guard`; `python -m lightning_gradood score` runs it on files.
Loading executes no code of the folder: weights are safetensors, every file is compared with its hash, and classes are
named by class path and must come from this package, torch, torchvision, timm, or packages that the caller trusts by
name. Neither Lightning nor a DataModule is imported. `guard(images)` takes a batch that is ready for the network; for
files:

    >>> from lightning_gradood.guard import Guard
    >>> guard = Guard.load("runs/digits/2026-11-22_14-05-09/guard")  # doctest: +SKIP
    >>> for verdict in guard.score_files(["a.png", "b.png"]):  # doctest: +SKIP
    ...     print(verdict.path, verdict.prediction, verdict.p_value, verdict.flagged)
"""

from lightning_gradood.guard.explain import Explanation, explain, reading_names
from lightning_gradood.guard.guard import Guard, save_guard
from lightning_gradood.guard.known_images import KnownImages, drawn_images
from lightning_gradood.guard.onnx_file import Exported, export_guard, unexportable
from lightning_gradood.guard.refitting import MARKED, NOT_FLAGGED, USUAL, Change, Marks, read_files, read_marked, refit
from lightning_gradood.guard.saving import Description, Recipe, guard_folder, read_description, recipe_of
from lightning_gradood.guard.scoring import (
    FileVerdict,
    ImageBytes,
    Verdict,
    image_paths,
    read_scores,
    score_files_on_processes,
)
from lightning_gradood.guard.showing import GuardReport

__all__ = [
    "MARKED", "NOT_FLAGGED", "USUAL", "Change", "Description", "Explanation", "Exported", "FileVerdict", "Guard",
    "GuardReport", "ImageBytes", "KnownImages", "Marks", "Recipe", "Verdict", "drawn_images", "explain",
    "export_guard", "guard_folder", "image_paths", "read_description", "read_files", "read_marked",
    "read_scores", "reading_names", "recipe_of", "refit", "save_guard", "score_files_on_processes", "unexportable",
]  # fmt: skip
