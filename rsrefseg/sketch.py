"""What an image looks like in a few numbers, to compare many with each other."""

from __future__ import annotations

from functools import cache

import numpy as np

SIZE = 64
"""Numbers in a sketch."""


def sketch(features: np.ndarray) -> np.ndarray:
    """Project features at random, the same way each time, so that distances stay what they are by and large.

    Args:
        features: (c,) float, the mean over an image.

    Returns:
        (SIZE,) float16 of length one.

    Source:
        Johnson and Lindenstrauss, Extensions of Lipschitz mappings into a Hilbert space, 1984.
    """
    projected = features / max(1e-12, float(np.linalg.norm(features))) @ _directions(len(features))
    length = float(np.linalg.norm(projected))
    small: np.ndarray = (projected / max(1e-12, length)).astype(np.float16)
    return small


@cache
def _directions(dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((dim, SIZE))
