"""What every room shares: refusals, seeds by name, atomic files, pixels of image files, checks, exact arithmetic.

>>> import torch
>>> from lightning_gradood.core import Refusal, check_images
>>> try:
...     check_images(torch.full((1, 3, 8, 8), 255.0))
... except Refusal as refusal:
...     print(str(refusal).split(". ")[0])
`images` should be pixels in [0, 1]
"""

from lightning_gradood.core.checks import (
    Logits,
    check_above_zero,
    check_at_least,
    check_count,
    check_distance,
    check_finite,
    check_finite_rows,
    check_ids,
    check_images,
    check_labels,
    check_logits_shape,
    check_network,
    check_result,
    check_seed,
    check_whole,
)
from lightning_gradood.core.distributed import gathered
from lightning_gradood.core.errors import NotFinite, Refusal, Unwritable, refused_as
from lightning_gradood.core.files import (
    atomic_write,
    check_writable,
    is_temporary,
    is_writing_error,
    writing_refusal,
    writing_refused,
)
from lightning_gradood.core.image_files import (
    PassedOver,
    find_image_files,
    image_suffixes,
    printable,
    subfolders,
)
from lightning_gradood.core.locks import hold
from lightning_gradood.core.memory import Portions, is_out_of_memory
from lightning_gradood.core.network_state import (
    BATCH_NORMS,
    OrderedBatchNorm,
    alone_with,
    evaluating,
    exact_arithmetic,
    frozen_network,
    refuse_fixed_mode,
    requiring_grad,
    without_cached_parametrizations,
)
from lightning_gradood.core.outputs import (
    images_in_logits_out,
    input_gradient,
    logits_in,
    refuse_single_image,
    wanted_size,
)
from lightning_gradood.core.perturbation import Crafted, Perturbation, Perturbed
from lightning_gradood.core.pixels import (
    MEGAPIXELS,
    Picture,
    PixelLimit,
    Transform,
    Unreadable,
    as_float,
    eight_bit,
    read_picture,
    to_pixels,
    upright,
)
from lightning_gradood.core.precision import (
    LOG_FLOOR,
    as_array,
    to_float64,
    to_float64_device,
)
from lightning_gradood.core.progress import LOG, Profiler, ProgressLines, is_terminal, progress, say, stage
from lightning_gradood.core.runs import CHECKPOINTS, CONFIG, claim, new_run_folder, refuse_foreign, refuse_unclaimed
from lightning_gradood.core.seeding import (
    craft_apart,
    generator_states,
    image_generator,
    named_seed,
    restore_generators,
)
from lightning_gradood.core.shipped import experiment_file, shipped_files
from lightning_gradood.core.text_files import (
    TooLarge,
    Unparsable,
    check_yaml,
    fits,
    parse_json,
    parse_yaml,
    read_json,
    read_text,
    read_yaml,
)
from lightning_gradood.core.threads import Threads, choose_threads, processes_per_machine, usable_processors
from lightning_gradood.core.trust import check_import, check_imported, distrusted, importing_only, may_import

__all__ = [
    "BATCH_NORMS",
    "CHECKPOINTS",
    "CONFIG",
    "LOG",
    "LOG_FLOOR",
    "MEGAPIXELS",
    "Crafted",
    "Logits",
    "NotFinite",
    "OrderedBatchNorm",
    "PassedOver",
    "Perturbation",
    "Perturbed",
    "Picture",
    "PixelLimit",
    "Portions",
    "Profiler",
    "ProgressLines",
    "Refusal",
    "Threads",
    "TooLarge",
    "Transform",
    "Unparsable",
    "Unreadable",
    "Unwritable",
    "alone_with",
    "as_array",
    "as_float",
    "atomic_write",
    "check_above_zero",
    "check_at_least",
    "check_count",
    "check_distance",
    "check_finite",
    "check_finite_rows",
    "check_ids",
    "check_images",
    "check_import",
    "check_imported",
    "check_labels",
    "check_logits_shape",
    "check_network",
    "check_result",
    "check_seed",
    "check_whole",
    "check_writable",
    "check_yaml",
    "choose_threads",
    "claim",
    "craft_apart",
    "distrusted",
    "eight_bit",
    "evaluating",
    "exact_arithmetic",
    "experiment_file",
    "find_image_files",
    "fits",
    "frozen_network",
    "gathered",
    "generator_states",
    "hold",
    "image_generator",
    "image_suffixes",
    "images_in_logits_out",
    "importing_only",
    "input_gradient",
    "is_out_of_memory",
    "is_temporary",
    "is_terminal",
    "is_writing_error",
    "logits_in",
    "may_import",
    "named_seed",
    "new_run_folder",
    "parse_json",
    "parse_yaml",
    "printable",
    "processes_per_machine",
    "progress",
    "read_json",
    "read_picture",
    "read_text",
    "read_yaml",
    "refuse_fixed_mode",
    "refuse_foreign",
    "refuse_single_image",
    "refuse_unclaimed",
    "refused_as",
    "requiring_grad",
    "restore_generators",
    "say",
    "shipped_files",
    "stage",
    "subfolders",
    "to_float64",
    "to_float64_device",
    "to_pixels",
    "upright",
    "usable_processors",
    "wanted_size",
    "without_cached_parametrizations",
    "writing_refusal",
    "writing_refused",
]
