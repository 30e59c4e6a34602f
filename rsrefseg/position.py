"""SAM's random-Fourier position encoding of a regular grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cell_centres(size_hw: tuple[int, int], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Lay a regular grid over an image.

    Args:
        size_hw: Rows and columns of the grid.
        device: Where it is needed.
        dtype: Of its numbers.

    Returns:
        (h, w, 2), x then y, in [0, 1].
    """
    h, w = size_hw
    y = (torch.arange(h, dtype=dtype, device=device) + 0.5) / h
    x = (torch.arange(w, dtype=dtype, device=device) + 0.5) / w
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def fourier_position(frequencies: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Encode the cell centres of a grid.

    Computed here rather than by segment_anything, which builds the grid in float32 whatever the weights, and in
    float32 at the least, since half precision loses the products' digits.

    Args:
        frequencies: (2, channels / 2), the random matrix, x first.
        size_hw: Rows and columns of the grid.

    Returns:
        (1, channels, h, w), in the matrix's dtype or float32 if that is wider.

    Source:
        facebookresearch/segment-anything segment_anything/modeling/prompt_encoder.py, PositionEmbeddingRandom.
    """
    dtype = torch.promote_types(frequencies.dtype, torch.float32)
    with torch.autocast(frequencies.device.type, enabled=False):
        grid = cell_centres(size_hw, frequencies.device, dtype)  # (h, w, 2)
        return fourier_of(frequencies, grid).permute(2, 0, 1)[None]


def fourier_of(frequencies: Tensor, points: Tensor) -> Tensor:
    """Encode places.

    Args:
        frequencies: (2, channels / 2), the random matrix, x first.
        points: (..., 2), x then y, in [0, 1].

    Returns:
        (..., channels), in the matrix's dtype or float32 if that is wider.

    Source:
        As of `fourier_position`.
    """
    dtype = torch.promote_types(frequencies.dtype, torch.float32)
    with torch.autocast(frequencies.device.type, enabled=False):
        angle = 2 * math.pi * ((2 * points.to(dtype) - 1) @ frequencies.to(dtype))  # (..., channels / 2)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)
