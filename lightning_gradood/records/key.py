"""The name under which records are cached: a digest of all they depend on."""

import hashlib
import json
from collections.abc import Mapping


def entry_key(ingredients: Mapping[str, object]) -> str:
    """Digest everything that a cache entry depends on.

    Args:
        ingredients: JSON-able values by name, such as the digest of the weights, the digest of the images, the attack,
            the probe with its version and label design, and the dtype. Their order does not matter.

    Returns:
        SHA-256 as 64 hexadecimal digits.

    Raises:
        TypeError: if an ingredient cannot be written as JSON; its default text could hide a difference.
    """
    canonical = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
