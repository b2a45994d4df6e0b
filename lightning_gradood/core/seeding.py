"""Seeds by name, and random numbers that belong to one image, in whatever batch, order or process it comes."""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def named_seed(seed: int, name: str, bits: int = 64) -> int:
    """Derive a seed from a name: the first `bits` (a multiple of 8) of SHA-256 of `<seed>/<name>`, big endian.

    NumPy's and scikit-learn's `random_state` take 32 bits.

    >>> named_seed(0, "digits") == named_seed(0, "digits"), named_seed(0, "digits") == named_seed(1, "digits")
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[: bits // 8], "big")


def image_generator(seed: int, image_id: str) -> torch.Generator:
    """Return one image's generator, on the CPU, where streams are the same for all devices.

    >>> torch.equal(*(torch.rand(3, generator=image_generator(0, "digits/7")) for _ in range(2)))
    True
    """
    return torch.Generator().manual_seed(named_seed(seed, image_id))


def generator_states() -> dict[str, Any]:
    """States of the global generators of torch, its current GPU, NumPy and Python, as tensors and plain numbers."""
    name, keys, *position = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *position],
        "python": random.getstate(),
    }


def restore_generators(states: dict[str, Any]) -> None:
    """Set the global generators to `generator_states`."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
    name, keys, *position = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *position))
    random.setstate(states["python"])
