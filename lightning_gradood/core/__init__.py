"""What every room shares: components, refusals, seeds by name, atomic files, image files, exact arithmetic, run folders.

>>> import torch
>>> from lightning_gradood.core import Refusal, check_images
>>> try:
...     check_images(torch.full((1, 3, 8, 8), 255.0))
... except Refusal as refusal:
...     print(str(refusal).split(". ")[0])
`images` should be pixels in [0, 1]
"""

# ruff: noqa: I001  # names side by side
from importlib import import_module
from typing import TYPE_CHECKING

# fmt: off
if TYPE_CHECKING:
    from lightning_gradood.core.component import (
        PACKAGES, Component, arguments_of, check_import, class_path, decode, digest, encode, pack,
        packages_of, unpack,
    )
    from lightning_gradood.core.devices import (
        LOG_FLOOR, Portions, gathered, give_back_memory, to_float64, to_float64_device,
    )
    from lightning_gradood.core.errors import (
        NotFinite, Refusal, Unwritable, did_you_mean, first_line, fits, refused_as,
    )
    from lightning_gradood.core.files import (
        Unparsable, atomic_write, check_writable, check_yaml, is_temporary, parse_json, read_json, read_text, read_yaml,
        writing_refusal, writing_refused,
    )
    from lightning_gradood.core.network_state import (
        BATCH_NORMS, HALF, OrderedBatchNorm, evaluating, exact_arithmetic, frozen_network, graphs_kept, input_gradient,
        keeping_graphs, logits_in, logits_out, probing_state, reading, refuse_single_image, requiring_grad, uncompiled,
    )
    from lightning_gradood.core.pictures import (
        MEGAPIXELS, TRANSPARENT, PassedOver, Picture, PixelLimit, Transform, Unreadable, as_float, eight_bit,
        find_image_files, image_formats, image_suffixes, opaque, printable, read_picture, subfolders, to_pixels,
        upright,
    )
    from lightning_gradood.core.progress_lines import LOG, ProgressLines, going_on_without, progress, say, say_once, stage
    from lightning_gradood.core.ranges import (
        ClosedUnitInterval, FiniteNonNegative, FinitePositive, HalfOpenUnitInterval, NonNegativeInt, OpenUnitInterval,
        Percentile, PositiveFloat, PositiveInt, Seed,
    )
    from lightning_gradood.core.runs import (
        CHECKPOINTS, CONFIG, claim, experiment_file, hold, new_run_folder, refuse_foreign,
        shipped_files,
    )
    from lightning_gradood.core.seeding import generator_states, image_generator, named_seed, restore_generators
    from lightning_gradood.core.tensor_checks import check_batch, check_finite_rows, check_images, check_logits_shape

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
    "to_float64", "to_float64_device", "to_pixels", "uncompiled", "unpack", "upright", "writing_refusal", "writing_refused",
]  # fmt: skip
# fmt: on

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
