"""What every room shares: components, refusals, seeds by name, atomic files, image files, exact arithmetic, run folders.

>>> import torch
>>> from lightning_gradood.core import Refusal, check_images
>>> try:
...     check_images(torch.full((1, 3, 8, 8), 255.0))
... except Refusal as refusal:
...     print(str(refusal).split(". ")[0])
`images` should be pixels in [0, 1]
"""

# ruff: noqa: F403, F405  # `__all__` says which names
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_gradood.core.component import *
    from lightning_gradood.core.devices import *
    from lightning_gradood.core.errors import *
    from lightning_gradood.core.files import *
    from lightning_gradood.core.network_state import *
    from lightning_gradood.core.pictures import *
    from lightning_gradood.core.progress_lines import *
    from lightning_gradood.core.ranges import *
    from lightning_gradood.core.runs import *
    from lightning_gradood.core.seeding import *
    from lightning_gradood.core.tensor_checks import *

__all__ = [
    "BATCH_NORMS", "CHECKPOINTS", "CONFIG", "HALF", "LOG", "LOG_FLOOR", "MEGAPIXELS", "PACKAGES", "TRANSPARENT",
    "ClosedUnitInterval", "Component", "FiniteNonNegative", "FinitePositive", "HalfOpenUnitInterval", "NonNegativeInt",
    "NotFinite", "OpenUnitInterval", "OrderedBatchNorm", "PassedOver", "Percentile", "Picture", "PixelLimit", "Portions",
    "PositiveFloat", "PositiveInt", "ProgressLines", "Refusal", "Seed", "Transform", "Unparsable", "Unreadable", "Unwritable",
    "arguments_of", "as_float", "atomic_write", "check_batch", "check_finite_rows", "check_images", "check_import",
    "check_logits_shape", "check_writable", "check_yaml", "claim", "class_path", "decode", "did_you_mean", "digest",
    "eight_bit", "encode", "evaluating", "exact_arithmetic", "experiment_file", "find_image_files", "first_line", "fits",
    "frozen_network", "gathered", "generator_states", "give_back_memory", "going_on_without", "graphs_kept", "hold",
    "image_formats", "image_generator", "image_suffixes", "input_gradient", "is_temporary", "keeping_graphs", "logits_in",
    "logits_out", "named_seed", "new_run_folder", "opaque", "pack", "packages_of", "parse_json", "printable", "probing_state",
    "progress", "read_json", "read_picture", "read_text", "read_yaml", "reading", "refuse_foreign", "refuse_single_image",
    "refused_as", "requiring_grad", "restore_generators", "say", "say_once", "shipped_files", "stage", "subfolders",
    "to_float64", "to_float64_device", "to_pixels", "uncompiled", "unpack", "upright", "versions", "writing_refusal",
    "writing_refused",
]  # fmt: skip

if not TYPE_CHECKING:
    # those without torch first: `--help`, refusals of a command line and `configs` need no more
    _FILES = (
        *("errors", "files", "ranges", "runs", "progress_lines"),
        *("tensor_checks", "component", "devices", "seeding", "network_state", "pictures"),
    )

    def __getattr__(name: str) -> object:
        """Import the file that has a name of `__all__` when it is first asked for (PEP 562)."""
        for file in _FILES if name in __all__ else ():
            found = vars(import_module(f"{__name__}.{file}"))
            if name in found:
                return globals().setdefault(name, found[name])
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
