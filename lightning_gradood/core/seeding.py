"""Seeds by name, and random numbers that belong to one image, in whatever batch, order or process it comes."""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gradood.core.checks import check_result
from lightning_gradood.core.errors import Refusal


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


def craft_apart(
    craft: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    ids: Sequence[str],
    seed: int,
    one_at_a_time: bool,
) -> Tensor:
    """Call other libraries' code, which uses global generators, so that these are restored and images stay independent.

    `craft` maps images [n, ...] and labels int64 [n] to images. With `one_at_a_time` each image is crafted alone,
    seeded by `seed` and its id; otherwise random draws are refused, as they would depend on the batch.
    """
    with _generators_restored():
        if one_at_a_time:
            return torch.cat([_alone(craft, images[[row]], labels[[row]], seed, ids[row]) for row in range(len(ids))])
        before = _generators()
        crafted = craft(images, labels)
        if not _same(before, _generators()):
            raise Refusal(
                "`one_at_a_time` should be true for an attack that draws random numbers, or they would depend on the "
                "images beside it. Got `one_at_a_time = False`. Set it, or switch the attack's randomness off."
            )
        return crafted


def generator_states() -> dict[str, Any]:
    """States of the global generators of torch, its current GPU, NumPy and Python, as tensors and plain numbers.

    >>> states = generator_states()
    >>> first = torch.rand(3)
    >>> restore_generators(states)
    >>> torch.equal(first, torch.rand(3))
    True
    """
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


def _alone(craft: Callable[[Tensor, Tensor], Tensor], image: Tensor, label: Tensor, seed: int, image_id: str) -> Tensor:
    stream = named_seed(seed, image_id)
    torch.manual_seed(stream)
    np.random.seed(stream % 2**32)
    random.seed(stream)
    crafted = craft(image, label)
    check_result(crafted, image, None, "the attack")  # before rows of different shapes are joined
    return crafted


def _generators() -> tuple[list[Tensor], Any, Any]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return [torch.get_rng_state(), *devices], np.random.get_state(), random.getstate()


def _same(one: tuple[list[Tensor], Any, Any], other: tuple[list[Tensor], Any, Any]) -> bool:
    same_torch = all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    return same_torch and repr(one[1]) == repr(other[1]) and one[2] == other[2]


@contextmanager
def _generators_restored() -> Iterator[None]:
    (host, *devices), numpy_state, python_state = _generators()
    try:
        yield
    finally:
        torch.set_rng_state(host)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
