"""Image and text towers: what turns pixels and words into the features that the prompter compares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.transformer import TextTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

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


def _attention(channels: int, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        channels,
        nhead=4,
        dim_feedforward=2 * channels,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


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
        self.context = _attention(c32, layers=2)
        self.merge = _conv(c16 + c32, c32)
        # Which of several is leftmost, largest or nearest is seen by comparing them, before any word is known.
        self.peers = _attention(c32, layers=2)
        self.peers_gain = nn.Parameter(torch.full((c32, 1, 1), 0.1))
        self.to_clip = nn.Sequential(_conv(c32, c32), nn.Conv2d(c32, clip_dim, 1))
        self.place = nn.Conv2d(clip_dim, clip_dim, 1, bias=False)
        nn.init.zeros_(self.place.weight)  # what is there matters first, then where
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
            Features for words and for masks, both at stride 16.
        """
        x = imagenet_normalised(images)
        x4 = self.stage4(self.stem(x))  # (b, c4, S/4, S/4)
        x8 = self.stage8(x4)  # (b, c8, S/8, S/8)
        x16 = self.stage16(x8)  # (b, c16, S/16, S/16)
        x32 = self.stage32(x16)  # (b, c32, S/32, S/32)
        x32 = self._attended(self.context, x32)
        x32 = functional.interpolate(x32, scale_factor=2, mode="bilinear", align_corners=False)
        merged = self.merge(torch.cat([x16, x32.to(x16.dtype)], dim=1))  # (b, c32, S/16, S/16)
        merged = merged + self.peers_gain * self._attended(self.peers, merged)
        clip = self.to_clip(merged)  # (b, c, S/16, S/16)
        place = fourier_position(self.frequencies, (clip.shape[2], clip.shape[3]))
        clip = clip + self.place(place.to(clip.dtype))
        folded = [functional.pixel_unshuffle(x4, 4), functional.pixel_unshuffle(x8, 2), merged]
        return ImageFeatures(sam=self.neck(torch.cat(folded, dim=1)), clip=clip)

    def _attended(self, attention: nn.TransformerEncoder, x: Tensor) -> Tensor:
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
            token_ids: n tensors (t_i,) int64, unpadded, end token included.

        Returns:
            Features padded to the longest, equal to encoding each alone.
        """
        lengths = torch.tensor([len(ids) for ids in token_ids], device=token_ids[0].device)
        ids = pad_sequence(list(token_ids), batch_first=True)  # (n, t)
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
