"""SAM's random-Fourier position encoding of a regular grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
    h, w = size_hw
    dtype = torch.promote_types(frequencies.dtype, torch.float32)
    with torch.autocast(frequencies.device.type, enabled=False):
        y = (torch.arange(h, dtype=dtype, device=frequencies.device) + 0.5) / h
        x = (torch.arange(w, dtype=dtype, device=frequencies.device) + 0.5) / w
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (h, w, 2), x then y
        angle = 2 * math.pi * ((2 * grid - 1) @ frequencies.to(dtype))  # (h, w, channels / 2)
        return torch.cat([angle.sin(), angle.cos()], dim=-1).permute(2, 0, 1)[None]
