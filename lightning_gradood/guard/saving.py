"""Saving a guard: the folder is written, loaded again as users load it, and its scores are compared."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_gradood.core import PACKAGES, Refusal, encode, packages_of
from lightning_gradood.detectors import Fitted, SavedDetector, score_in_blocks
from lightning_gradood.guard.folder import Description, replace_folder, write_folder
from lightning_gradood.guard.guard import Guard
from lightning_gradood.networks import Normalized, TwoLogits
from lightning_gradood.probes import Probe
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
    saved: SavedDetector,
    probes: Sequence[Probe],
    records: Records,
    images: Tensor,
) -> Guard:
    """Save a guard, load it again, and compare the scores; an existing folder is replaced whole, or stays as it was.

    Args:
        network: pixels in [0, 1] in, logits out, with its normalisation.
        saved: the detector with what it has learnt.
        probes: those it reads, prepared where they need it.
        records: of some images that the detector was not fitted on; its first rows are those of `images`.
        images: float in [0, 1] or uint8, [N, C, H, W].

    Raises:
        Refusal: the network cannot be built again from class path and arguments, or gives other scores then.
    """
    device = next(network.parameters()).device
    inner = network.network if about.one_logit and isinstance(network, TwoLogits) else network
    bare = inner.network if about.normalize and isinstance(inner, Normalized) else inner
    trial = folder.with_name(f".{folder.name}.trial")
    trust = packages_of([about.network, about.transform, encode([saved, list(probes)], {})])
    try:
        write_folder(trial, about, bare, saved, probes)
        guard = Guard.load(trial, trust, device)
        _refuse_other_scores(guard, saved.fitted, records, images)
        replace_folder(trial, folder)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return guard


def _refuse_other_scores(guard: Guard, fitted: Fitted, records: Records, images: Tensor) -> None:
    expected = score_in_blocks(fitted, records)
    found = guard(images).scores
    spread = max(float(np.ptp(expected)), 1e-12)
    if not np.allclose(found, expected[: len(found)], rtol=1e-6, atol=_TOLERANCE * spread):
        raise Refusal(
            "A guard should give the scores that `detect` gave. Got others from the network that its class path and arguments "
            "build. Let its constructor's arguments decide all that is not in its weights."
        )
