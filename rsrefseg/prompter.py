"""What the words find in the image, as prompts for SAM's mask decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsrefseg.comparison import Comparison
from rsrefseg.features import ImageFeatures, TextFeatures, of_each
from rsrefseg.position import fourier_position
from rsrefseg.presets import SharedTrunk

NOWHERE = -8.0
"""The logit of cells that are not searched, at most."""


class Prompts(NamedTuple):
    """What n expressions tell the mask decoder."""

    sparse: Tensor
    """(n, k, d): the cells of the shrunken activation, row by row, in place of points and boxes."""
    activation: Tensor
    """(n, g, g): the raw global logit, which becomes the dense prompt."""
    finest: Tensor
    """(n, f): the expression in the channels of the finest image map; f is 0 where there is none."""


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, exact GELU; named as the published checkpoints name it.

    Args:
        c_in: Channels in.
        c_out: Channels out.
        kernel: Side of the kernel; padded to keep the size.
        stride: Step.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three.

        Args:
            x: (b, c_in, h, w).

        Returns:
            (b, c_out, h / stride, w / stride), rounded up.
        """
        return functional.gelu(self.bn(self.conv(x)))


class Prompter(nn.Module):
    """Compare every image cell with every word and with the whole expression.

    Source:
        arXiv 2501.06809, and KyanChen/RSRefSeg rsris/models/models.py @ c20e056, which decides where they differ.

    Args:
        clip_dim: Channels c of the image-text space.
        decoder_dim: Channels d of the prompts.
        trunk: Of the image encoder that reads off traits and shows fine maps; None where it does not.
        logit_scale: Start of exp(logit_scale).
        logit_bias: Start of the bias; negative, since most cells match nothing.
    """

    def __init__(
        self,
        clip_dim: int,
        decoder_dim: int,
        trunk: SharedTrunk | None = None,
        logit_scale: float = 10.0,
        logit_bias: float = -3.0,
    ) -> None:
        super().__init__()
        self.comparison = Comparison(clip_dim, trunk.colours) if trunk else None
        self.finest = nn.Linear(clip_dim, decoder_dim // 8) if trunk else None
        # How far the mask follows what the finest map shows before the decoder has its say.
        self.finest_gain = nn.Parameter(torch.tensor(0.25)) if trunk else None
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale).log())
        self.logit_bias = nn.Parameter(torch.tensor(logit_bias))
        self.prompter_down_channel = ConvNorm(3 * clip_dim, decoder_dim, 1)
        self.prompter_down_spatial = nn.Sequential(
            ConvNorm(decoder_dim, decoder_dim, 3, stride=2),
            ConvNorm(decoder_dim, decoder_dim, 3, stride=2),
            nn.Conv2d(decoder_dim, decoder_dim, 1),
        )

    def logit(self, similarity: Tensor) -> Tensor:
        """Turn cosines into logits, as SigLIP does.

        Args:
            similarity: Any shape, in [-1, 1].

        Returns:
            The same shape.
        """
        return self.logit_scale.exp() * similarity + self.logit_bias

    def match(self, clip: Tensor, pooled: Tensor) -> Tensor:
        """Compare every cell of every image with every expression, whether or not they belong together.

        Args:
            clip: (b, c, g, g), the image features.
            pooled: (k, c), the expressions.

        Returns:
            (b, k, g, g) logits.
        """
        cells = functional.normalize(clip.float(), dim=1)
        return self.logit(torch.einsum("bchw,kc->bkhw", cells, functional.normalize(pooled.float(), dim=1)))

    def match_finest(self, quarter: Tensor, pooled: Tensor) -> Tensor:
        """Compare every pixel of the finest map of every image with every expression.

        Args:
            quarter: (b, f, S/4, S/4).
            pooled: (k, c), the expressions.

        Returns:
            (b, k, S/4, S/4) logits.
        """
        return torch.einsum("bfhw,kf->bkhw", quarter.float(), self._finest(pooled).float())

    def find(self, image: ImageFeatures, pooled: Tensor, image_index: Tensor) -> Tensor:
        """Compare every cell of its image with each expression.

        Args:
            image: Features of b images.
            pooled: (n, c), the expressions.
            image_index: (n,) int64, which image each expression is about.

        Returns:
            (n, g, g) logits.
        """
        cells = _cells(image.clip, image_index)
        matched = self._compared(cells, pooled[:, None])[:, 0]
        return self._corrected(cells, of_each(image.traits, image_index), pooled, matched)

    def _compared(self, cells: Tensor, words: Tensor) -> Tensor:
        # (n, t, c) words, each with the cells of its own image: (n, t, g, g) logits.
        return self.logit(torch.einsum("nchw,ntc->nthw", cells, functional.normalize(words.to(cells.dtype), dim=2)))

    def _corrected(self, cells: Tensor, traits: Tensor, pooled: Tensor, matched: Tensor) -> Tensor:
        if self.comparison is None:
            return matched
        correction: Tensor = self.comparison(cells, traits, pooled, self.logit)
        return matched + correction.to(matched.dtype)

    def _finest(self, pooled: Tensor) -> Tensor:
        if self.finest is None:
            return pooled[:, :0]
        # Words a unit long would be so quiet that rare classes stay silent for thousands of steps.
        finest: Tensor = self.finest(functional.normalize(pooled, dim=1) * pooled.shape[1] ** 0.5)
        return finest

    def forward(
        self,
        image: ImageFeatures,
        text: TextFeatures,
        image_index: Tensor,
        frequencies: Tensor,
        searched: Tensor | None = None,
    ) -> Prompts:
        """Find the prompts.

        Upstream puts [local, global, v] through a 1 x 1 convolution for each expression. Local and global are v times
        one number a cell, which can as well be multiplied afterwards: then the convolution is of the image alone.

        Args:
            image: Features of b images.
            text: Features of n expressions.
            image_index: (n,) int64, which image each expression is about.
            frequencies: (2, d / 2), SAM's position matrix.
            searched: (n, g, g) bool, the cells in which anything may be found; None for all.

        Returns:
            k = ceil(g / 4) squared sparse prompts, the activation, and the words for the finest map.
        """
        clip = image.clip
        words = torch.cat([text.tokens, text.pooled[:, None]], dim=1)  # (n, t + 1, c): each word, then the whole
        cells = _cells(clip, image_index)  # (n, c, g, g)
        logits = self._compared(cells, words)  # (n, t + 1, g, g)
        likely = torch.sigmoid(logits[:, :-1])  # (n, t, g, g)
        valid = text.valid.to(likely.dtype)  # (n, t)
        mean = torch.einsum("nthw,nt->nhw", likely, valid / valid.sum(1, keepdim=True))  # (n, g, g)
        traits = of_each(image.traits, image_index)  # (n, k, g, g)
        activation = self._corrected(cells, traits, text.pooled, logits[:, -1])  # (n, g, g)
        if searched is not None:
            activation = activation.where(searched, activation.clamp(max=NOWHERE))
        down = self.prompter_down_channel
        weight = torch.cat(down.conv.weight.chunk(3, dim=1))  # (3 * d, c, 1, 1)
        maps = of_each(functional.conv2d(clip.to(weight.dtype), weight), image_index)  # (n, 3 * d, g, g)
        local, matched, plain = maps.chunk(3, dim=1)  # (n, d, g, g) each
        x = local * ((1 + mean) / 2)[:, None] + matched * torch.sigmoid(activation)[:, None] + plain
        x = functional.gelu(down.bn(x.to(weight.dtype)))
        x = x + fourier_position(frequencies, (x.shape[2], x.shape[3])).to(x.dtype)
        x = self.prompter_down_spatial(x)  # (n, d, g/4, g/4)
        return Prompts(x.flatten(2).transpose(1, 2), activation, self._finest(text.pooled))


def _cells(clip: Tensor, image_index: Tensor) -> Tensor:
    # Those of each expression's image, a unit long, (n, c, g, g); in half precision logits would tie.
    wide = clip.to(torch.promote_types(clip.dtype, torch.float32))
    return of_each(functional.normalize(wide, dim=1), image_index)
