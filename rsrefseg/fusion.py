"""Words and cells together: telling one of several apart once it is known which are asked about."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsrefseg.features import of_each
from rsrefseg.position import cell_centres


class Fusion(nn.Module):
    """Let the cells that fit the words compare themselves with each other.

    One product between an expression and a cell can say "a ship"; whether it is the leftmost, the largest or the one
    nearest the bridge depends on the other ships and on the bridge. The cells attend to each other at half the
    resolution, after the words have marked them, and correct the match.

    Args:
        clip_dim: Channels c of the space that words and cells share.
        width: Channels in which they attend.
        layers: Of attention.
    """

    def __init__(self, clip_dim: int, width: int, layers: int) -> None:
        super().__init__()
        self.cells = nn.Conv2d(clip_dim, width, 1)
        self.scale = nn.Linear(clip_dim, width)
        self.shift = nn.Linear(clip_dim, width)
        self.match = nn.Parameter(torch.zeros(width, 1, 1))
        self.shrink = nn.Conv2d(width, width, 2, stride=2)
        self.place = nn.Linear(2, width)
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.attention = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.grow = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.correction = nn.Conv2d(width, 1, 1)
        nn.init.normal_(self.match, std=0.1)
        nn.init.zeros_(self.correction.weight)  # starts as no correction
        nn.init.zeros_(self.correction.bias)  # type: ignore[arg-type]

    def forward(self, clip: Tensor, pooled: Tensor, image_index: Tensor, matched: Tensor) -> Tensor:
        """Correct what expressions matched.

        Args:
            clip: (b, c, g, g), the features of b images; g is even.
            pooled: (n, c), the expressions.
            image_index: (n,) int64, which image each is about.
            matched: (n, g, g) logits of each cell by itself.

        Returns:
            (n, g, g), to be added to the logits.
        """
        cells = of_each(self.cells(clip), image_index)  # (n, w, g, g)
        marked = cells * (1 + self.scale(pooled)[:, :, None, None]) + self.shift(pooled)[:, :, None, None]
        marked = nn.functional.gelu(marked + self.match * matched[:, None].to(cells.dtype))
        x = self.shrink(marked)  # (n, w, g/2, g/2)
        n, w, rows, columns = x.shape
        centres = cell_centres((rows, columns), x.device, self.place.weight.dtype).flatten(0, 1)
        place = self.place(centres - 0.5)  # (g/2 * g/2, w)
        x = self.attention(x.flatten(2).transpose(1, 2) + place)  # (n, g/2 * g/2, w)
        x = self.grow(x.transpose(1, 2).reshape(n, w, rows, columns))  # (n, w, g, g)
        correction: Tensor = self.correction(nn.functional.gelu(x + marked))[:, 0]
        return correction.to(matched.dtype)
