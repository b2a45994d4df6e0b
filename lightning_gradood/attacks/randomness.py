"""Random numbers that belong to an image, whatever batch, order or process it comes in."""

import hashlib

import torch


def image_generator(seed: int, image_id: str) -> torch.Generator:
    """Start the stream of random numbers of one image; the global generator is neither read nor moved.

    Args:
        seed: The attack's seed.
        image_id: The image's name, the same on every machine.

    Returns:
        A generator on the CPU, where streams are the same for all devices.

    Example:
        >>> torch.equal(*(torch.rand(3, generator=image_generator(0, "digits/7")) for _ in range(2)))
        True
    """
    digest = hashlib.sha256(f"{seed}/{image_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
