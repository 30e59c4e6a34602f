"""Image and text towers: what turns pixels and words into the features that the prompter compares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.transformer import TextTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from rsrefseg.attention import CellAttention
from rsrefseg.comparison import traits_of
from rsrefseg.features import ImageFeatures, TextFeatures
from rsrefseg.position import fourier_position
from rsrefseg.presets import ClipText, Preset, SharedTrunk, SiglipText
from rsrefseg.towers import (
    PairedImageEncoder,
    adapt_images,
    adapt_text,
    imagenet_normalised,
    siglip_text,
)


def _conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)  # starts as the identity, which trains faster
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


class _Pyramid(nn.Module):
    """Carry what was understood at stride 16 back to where edges are.

    Source:
        Lin et al., Feature Pyramid Networks, arXiv 1612.03144; that SAM's decoder gains by such maps while it draws:
        Ravi et al., SAM 2, arXiv 2408.00714.
    """

    def __init__(self, trunk: SharedTrunk, decoder_dim: int) -> None:
        super().__init__()
        c4, c8, _, c32 = trunk.channels
        p8, p4 = trunk.pyramid
        self.down8, self.down4 = nn.Conv2d(c32, p8, 1), nn.Conv2d(p8, p4, 1)
        self.across8, self.across4 = nn.Conv2d(c8, p8, 1), nn.Conv2d(c4, p4, 1)
        n8, n4 = trunk.refined
        self.mix8, self.mix4 = _conv(p8, p8), _conv(p4, p4)
        self.refine8 = nn.Sequential(*(_Residual(p8) for _ in range(n8)))
        self.refine4 = nn.Sequential(*(_Residual(p4) for _ in range(n4)))
        self.show8, self.show4 = nn.Conv2d(p8, decoder_dim // 4, 1), nn.Conv2d(p4, decoder_dim // 8, 1)
        for show in (self.show8, self.show4):
            nn.init.normal_(show.weight, std=0.02)  # whispers at first
            nn.init.zeros_(show.bias)  # type: ignore[arg-type]

    def forward(self, x4: Tensor, x8: Tensor, merged: Tensor) -> tuple[Tensor, Tensor]:
        """Go down the pyramid.

        Args:
            x4: (b, c4, S/4, S/4).
            x8: (b, c8, S/8, S/8).
            merged: (b, c32, S/16, S/16).

        Returns:
            (b, d / 4, S/8, S/8) and (b, d / 8, S/4, S/4).
        """
        m8 = self.refine8(self.mix8(self.across8(x8) + _twice(self.down8(merged))))
        m4 = self.refine4(self.mix4(self.across4(x4) + _twice(self.down4(m8))))
        return self.show8(m8), self.show4(m4)


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class SharedImageEncoder(nn.Module):
    """One small convolutional trunk for both image paths, for models that train from little data.

    The finest maps reach SAM's decoder by folding space into channels, since it draws at four times its embedding's
    resolution and has no other way to see edges.

    Args:
        trunk: Channels and blocks at each stride.
        clip_dim: Channels c of the map that words are compared with.
        decoder_dim: Channels d of SAM's embedding.
    """

    frequencies: Tensor
    context_frequencies: Tensor

    def __init__(self, trunk: SharedTrunk, clip_dim: int, decoder_dim: int) -> None:
        super().__init__()
        c4, c8, c16, c32 = trunk.channels
        n4, n8, n16, n32 = trunk.blocks
        self.stem = nn.Sequential(_conv(3, c4 // 2, stride=2), _conv(c4 // 2, c4, stride=2))
        self.stage4 = nn.Sequential(*(_Residual(c4) for _ in range(n4)))
        self.stage8 = nn.Sequential(_conv(c4, c8, stride=2), *(_Residual(c8) for _ in range(n8)))
        self.stage16 = nn.Sequential(_conv(c8, c16, stride=2), *(_Residual(c16) for _ in range(n16)))
        self.stage32 = nn.Sequential(_conv(c16, c32, stride=2), *(_Residual(c32) for _ in range(n32)))
        self.context = CellAttention(c32, layers=2)
        self.merge = _conv(c16 + c32, c32)
        # Which of several is leftmost, largest or nearest is seen by comparing them, before any word is known.
        self.peers = CellAttention(c32, layers=2)
        self.peers_gain = nn.Parameter(torch.full((c32, 1, 1), 0.1))
        self.to_clip = nn.Sequential(_conv(c32, c32), nn.Conv2d(c32, clip_dim, 1))
        self.place = nn.Conv2d(clip_dim, clip_dim, 1, bias=False)
        nn.init.zeros_(self.place.weight)  # what is there matters first, then where
        self.traits = nn.Sequential(_conv(c32, c8), nn.Conv2d(c8, 3 + trunk.colours, 1))
        self.pyramid = _Pyramid(trunk, decoder_dim)
        d = decoder_dim
        self.neck = nn.Sequential(
            nn.Conv2d(16 * c4 + 4 * c8 + c32, d, 1, bias=False),
            LayerNorm2d(d),
            nn.Conv2d(d, d, 3, padding=1, bias=False),
            LayerNorm2d(d),
        )
        self.register_buffer("frequencies", torch.randn(2, clip_dim // 2))
        self.register_buffer("context_frequencies", torch.randn(2, c32 // 2))

    def forward(self, images: Tensor) -> ImageFeatures:
        """Encode images.

        Args:
            images: (b, 3, S, S) float in [0, 1], S a multiple of 32.

        Returns:
            Features for words and for masks at stride 16, and for masks at strides 8 and 4.
        """
        x = imagenet_normalised(images)
        x4 = self.stage4(self.stem(x))  # (b, c4, S/4, S/4)
        x8 = self.stage8(x4)  # (b, c8, S/8, S/8)
        x16 = self.stage16(x8)  # (b, c16, S/16, S/16)
        x32 = self.stage32(x16)  # (b, c32, S/32, S/32)
        x32 = self._attended(self.context, x32)
        merged = self.merge(torch.cat([x16, _twice(x32).to(x16.dtype)], dim=1))  # (b, c32, S/16, S/16)
        merged = merged + self.peers_gain * self._attended(self.peers, merged)
        clip = self.to_clip(merged)  # (b, c, S/16, S/16)
        place = fourier_position(self.frequencies, (clip.shape[2], clip.shape[3]))
        clip = clip + self.place(place.to(clip.dtype))
        folded = [functional.pixel_unshuffle(x4, 4), functional.pixel_unshuffle(x8, 2), merged]
        eighth, quarter = self.pyramid(x4, x8, merged)
        return ImageFeatures(
            sam=self.neck(torch.cat(folded, dim=1)),
            clip=clip,
            traits=traits_of(self.traits(merged)),
            eighth=eighth,
            quarter=quarter,
        )

    def _attended(self, attention: CellAttention, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x + fourier_position(self.context_frequencies, (h, w)).to(x.dtype)
        cells: Tensor = attention(x.flatten(2).transpose(1, 2))
        return cells.transpose(1, 2).reshape(b, c, h, w)


class FactorisedEmbedding(nn.Module):
    """A large vocabulary through a narrow table: most of CLIP's 49,408 pieces never occur.

    Args:
        vocab_size: Rows.
        rank: Width of the table.
        width: Width of what comes out.
    """

    std = 0.5
    """Of a piece that was not learnt yet: far above the positions' 0.01, or words start out alike."""

    def __init__(self, vocab_size: int, rank: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, rank)
        self.widen = nn.Linear(rank, width, bias=False)
        nn.init.normal_(self.table.weight, std=self.std)

    @torch.no_grad()
    def silence(self, never_seen: Tensor) -> None:
        """Let pieces that training never showed say nothing rather than noise.

        Args:
            never_seen: (vocab_size,) bool.
        """
        self.table.weight[never_seen] = 0

    def forward(self, token_ids: Tensor) -> Tensor:
        """Look tokens up.

        Args:
            token_ids: Any shape, int64.

        Returns:
            The same shape with `width` added.
        """
        embedded: Tensor = self.widen(self.table(token_ids))
        return embedded


def _clip_text(tower: ClipText, output_dim: int) -> TextTransformer:
    built = TextTransformer(
        context_length=tower.positions,
        vocab_size=tower.vocab_size,
        width=tower.width,
        heads=tower.heads,
        layers=tower.layers,
        output_dim=output_dim,
        no_causal_mask=True,
        pool_type="none",
        proj_bias=True,
    )
    built.token_embedding = FactorisedEmbedding(tower.vocab_size, tower.embedding_rank, tower.width)
    return built


class TextEncoder(nn.Module):
    """open_clip's text tower, batched exactly: padding is masked, and pooling is at the last real token.

    Args:
        tower: Its numbers.
        clip_dim: Channels c of the space that words are compared in.
    """

    def __init__(self, tower: ClipText | SiglipText, clip_dim: int) -> None:
        super().__init__()
        self.heads = tower.heads
        self.tower = _clip_text(tower, clip_dim) if isinstance(tower, ClipText) else siglip_text(tower, clip_dim)
        # Words are compared in the space of the projection; a tower as wide as that space needs no second one.
        width = self.tower.width
        self.token_projection = nn.Identity() if width == clip_dim else nn.Linear(width, clip_dim)

    def forward(self, token_ids: Sequence[Tensor]) -> TextFeatures:
        """Encode expressions.

        Args:
            token_ids: n tensors (t_i,) int64, unpadded, end token included; on any device.

        Returns:
            Features padded to the longest, equal to encoding each alone.
        """
        device = self.tower.positional_embedding.device
        lengths = torch.tensor([len(ids) for ids in token_ids], device=device)
        ids = pad_sequence(list(token_ids), batch_first=True).to(device)  # (n, t)
        n, t = ids.shape
        valid = torch.arange(t, device=ids.device)[None] < lengths[:, None]  # (n, t)
        x = self.tower.token_embedding(ids) + self.tower.positional_embedding[:t]  # (n, t, width)
        blocked = torch.zeros(n, t, t, dtype=x.dtype, device=x.device)
        blocked = blocked.masked_fill(~valid[:, None, :], float("-inf")).repeat_interleave(self.heads, dim=0)
        x = self.tower.ln_final(self.tower.transformer(x, attn_mask=blocked))  # (n, t, width)
        last = x[torch.arange(n, device=x.device), lengths - 1]  # (n, width)
        return TextFeatures(tokens=self.token_projection(x), pooled=self.tower.text_projection(last), valid=valid)


def build_encoders(preset: Preset) -> tuple[SharedImageEncoder | PairedImageEncoder, TextEncoder]:
    """Build what turns images and expressions into features.

    Published towers are frozen, but for their adapters.

    Args:
        preset: The size.

    Returns:
        The image encoder and the text encoder.
    """
    text = TextEncoder(preset.text, preset.clip_dim)
    if isinstance(preset.image, SharedTrunk):
        return SharedImageEncoder(preset.image, preset.clip_dim, preset.decoder_dim), text
    image = PairedImageEncoder(preset.image, preset.image_size, preset.clip_dim, preset.decoder_dim)
    image.requires_grad_(False)
    text.requires_grad_(False)
    if preset.lora:
        adapt_images(image, preset.lora)
        adapt_text(text.tower, preset.lora)
    return image, text
