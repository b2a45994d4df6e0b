"""Saving a guard: the folder is written, loaded again as users load it, and its scores are compared."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_gradood.core import PACKAGES, Refusal, packages_of
from lightning_gradood.detectors import Detector, score_in_blocks
from lightning_gradood.guard.folder import Description, replace_folder, write_folder
from lightning_gradood.guard.guard import Guard
from lightning_gradood.networks import Normalized, TwoLogits
from lightning_gradood.records import Records

_TOLERANCE = 1e-3  # of the scores' spread; another network or transform is off by far more, another batch size by less


@dataclass(frozen=True)
class Recipe:
    """How a guard's network, without its normalisation, and the transform of each picture are built again.

    Both are as `core.encode` gives them.
    """

    network: dict[str, Any]
    transform: dict[str, Any] | None = None

    @property
    def packages(self) -> list[str]:
        """Packages that must be trusted by name to load the guard."""
        return sorted(packages_of([self.network, self.transform]) - set(PACKAGES))


def save_guard(
    folder: Path,
    about: Description,
    network: nn.Module,
    detector: Detector,
    probe_states: Mapping[str, Mapping[str, Tensor]],
    records: Records,
    images: Tensor,
) -> Guard:
    """Save a guard, load it again, and compare the scores; an existing folder is replaced whole, or stays as it was.

    Args:
        network: pixels in [0, 1] in, logits out, with its normalisation.
        probe_states: probe name to what it learnt from the training images.
        records: of some images that the detector was not fitted on; its first rows are those of `images`.
        images: float in [0, 1] or uint8, [N, C, H, W].

    Raises:
        Refusal: the network cannot be built again from class path and arguments, or gives other scores then.
    """
    device = next(network.parameters()).device
    inner = network.network if about.one_logit and isinstance(network, TwoLogits) else network
    bare = inner.network if about.normalize and isinstance(inner, Normalized) else inner
    trial = folder.with_name(f".{folder.name}.trial")
    trust = packages_of([about.network, about.transform, about.detector])
    try:
        write_folder(trial, about, bare, detector, probe_states, records)
        guard = Guard.load(trial, trust, device)
        _refuse_other_scores(guard, detector, records, images)
        replace_folder(trial, folder)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return guard


def _refuse_other_scores(guard: Guard, detector: Detector, records: Records, images: Tensor) -> None:
    expected = score_in_blocks(detector, records)
    found = guard(images).scores
    spread = max(float(np.ptp(expected)), 1e-12)
    if not np.allclose(found, expected[: len(found)], rtol=1e-6, atol=_TOLERANCE * spread):
        raise Refusal(
            "A guard should give the scores that `detect` gave. Got others from the network that its class path and arguments "
            "build. Let its constructor's arguments decide all that is not in its weights."
        )
