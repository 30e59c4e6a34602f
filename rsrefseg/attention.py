"""Attention with the parameters of segment_anything and of torch under their names, in less time and memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from segment_anything.modeling import image_encoder, transformer
from torch import Tensor, nn
from torch.nn import functional

_CELLS_AT_ONCE = 256


class GridAttention(image_encoder.Attention):  # type: ignore[misc]
    """SAM's attention with its relative positions, never holding all logits of an image at once.

    The original's logits and what it makes of them take 2.4 GB in a global layer of preset b. Here a few rows of cells
    attend at a time; on a CPU, of one head, which then stays in its caches and takes less than half of the time.

    Source:
        facebookresearch/segment-anything segment_anything/modeling/image_encoder.py, Attention, with its parameters.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend to all cells of the same window or image.

        Args:
            x: (b, h, w, width).

        Returns:
            (b, h, w, width).
        """
        b, h, w, _ = x.shape
        q, k, v = self.qkv(x).view(b, h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        cells = q.unflatten(2, (h, w))  # (b, heads, h, w, c)
        by_row = torch.einsum(
            "bnhwc,hkc->bnhwk", cells, image_encoder.get_rel_pos(h, h, self.rel_pos_h)
        )  # (b, heads, h, w, h)
        by_column = torch.einsum(
            "bnhwc,wkc->bnhwk", cells, image_encoder.get_rel_pos(w, w, self.rel_pos_w)
        )  # (b, heads, h, w, w)
        if x.device.type == "cpu" and h * w > _CELLS_AT_ONCE:
            heads = zip(*(part.flatten(0, 1) for part in (q, k, v, by_row, by_column)), strict=True)
            attended = torch.stack([_attend(_plain_attention, *head) for head in heads]).unflatten(0, (b, -1))
        else:
            attended = _attend(functional.scaled_dot_product_attention, q, k, v, by_row, by_column)
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(b, h, w, -1))
        return projected


def _attend(
    attention: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor
) -> Tensor:
    h, w = by_row.shape[-3:-1]
    rows = max(1, _CELLS_AT_ONCE // w)
    attended = []
    for top in range(0, h, rows):
        some = slice(top, top + rows)
        bias = by_row[..., some, :, :, None] + by_column[..., some, :, None, :]  # (..., rows, w, h, w)
        bias = bias.flatten(-2).flatten(-3, -2)  # (..., rows * w, h * w)
        attended.append(attention(q[..., top * w : (top + rows) * w, :], k, v, attn_mask=bias))
    return torch.cat(attended, dim=-2)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor) -> Tensor:
    # On a CPU torch's own is slower whenever there is a mask, and twice as slow in bfloat16.
    logits = torch.addmm(attn_mask, q * q.shape[-1] ** -0.5, k.T)
    return logits.softmax(dim=-1) @ v


class PromptAttention(transformer.Attention):  # type: ignore[misc]
    """The mask decoder's attention between prompts and cells, by torch's own kernel."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend.

        Args:
            q: (n, a, d).
            k: (n, b, d).
            v: (n, b, d).

        Returns:
            (n, a, d).
        """
        projected = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        heads = [self._separate_heads(x, self.num_heads) for x in projected]
        width = heads[0].shape[-1]
        if q.device.type == "cpu":
            # There torch's kernel learns twice as slowly in half precision, and is three times as slow for odd widths.
            heads = [functional.pad(x.to(torch.promote_types(x.dtype, torch.float32)), (0, -width % 16)) for x in heads]
        queries, keys, values = heads
        with torch.autocast("cpu", enabled=False):
            x = functional.scaled_dot_product_attention(queries, keys, values, scale=width**-0.5)
        attended: Tensor = self.out_proj(self._recombine_heads(x[..., :width].to(projected[0].dtype)))
        return attended

    @classmethod
    def take_over(cls, model: nn.Module) -> None:
        """Compute segment_anything's attention this way wherever it occurs.

        Args:
            model: Changed in place; its parameters and their names stay.
        """
        for module in model.modules():
            if type(module) is transformer.Attention:
                module.__class__ = cls


def self_attention(packed: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Let tokens attend to each other by torch's own kernel.

    Args:
        packed: (n, t, 3 * width), the queries, keys and values of each token beside each other.
        heads: That share the width.
        mask: (n, heads, t, t), added to the logits; None for nothing.

    Returns:
        (n, t, width).
    """
    q, k, v = packed.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (n, heads, t, width / heads)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class CellAttention(nn.Module):
    """Layers of attention between all cells of an image, with nn.TransformerEncoder's parameters under their names.

    Without a gradient torch takes a fast path of its own, which holds all logits of an image at once: over 48 x 48
    cells it takes twice as long as torch's kernel.

    Args:
        channels: Of the cells.
        layers: How many.
        heads: That share the channels.
    """

    def __init__(self, channels: int, layers: int, heads: int = 4) -> None:
        super().__init__()
        layer = _CellLayer(channels, heads)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(layers))  # they begin alike, as torch's do

    def forward(self, cells: Tensor) -> Tensor:
        """Let cells see each other.

        Args:
            cells: (b, h * w, c).

        Returns:
            The same shape.
        """
        for layer in self.layers:
            cells = layer(cells)
        return cells


class _CellLayer(nn.Module):
    """One layer; norms come first."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, heads)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.linear1, self.linear2 = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, cells: Tensor) -> Tensor:
        own = self.self_attn
        packed = functional.linear(self.norm1(cells), own.in_proj_weight, own.in_proj_bias)  # (b, h * w, 3 * c)
        cells = cells + own.out_proj(self_attention(packed, own.num_heads))
        seen: Tensor = cells + self.linear2(functional.gelu(self.linear1(self.norm2(cells))))
        return seen
