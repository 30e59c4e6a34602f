"""The published towers: SAM's image encoder and SigLIP's two, at any size, with adapters on them."""

from __future__ import annotations

from functools import partial

import torch
from open_clip.transformer import LayerNorm, TextTransformer
from segment_anything.modeling import ImageEncoderViT
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from rsrefseg.attention import GridAttention, self_attention
from rsrefseg.features import ImageFeatures
from rsrefseg.lora import adapt
from rsrefseg.presets import Lora, PairedVits, SamVit, SiglipText, SiglipVision

# SigLIP was trained with the tanh approximation; open_clip's and timm's configurations of it build the exact one.
_SIGLIP_GELU = partial(nn.GELU, approximate="tanh")
_NORM = partial(nn.LayerNorm, eps=1e-6)


def imagenet_normalised(images: Tensor) -> Tensor:
    """Bring colours to mean 0 and deviation 1 over ImageNet, in the images' own precision.

    Args:
        images: (b, 3, h, w) float in [0, 1].

    Returns:
        (b, 3, h, w).
    """
    mean = images.new_tensor([0.485, 0.456, 0.406])[:, None, None]
    return (images - mean) / images.new_tensor([0.229, 0.224, 0.225])[:, None, None]


def sam_image_encoder(tower: SamVit, image_size: int, decoder_dim: int) -> ImageEncoderViT:
    """Build SAM's image encoder.

    Args:
        tower: Its numbers.
        image_size: Side of the square it reads, in pixels.
        decoder_dim: Channels it gives.

    Returns:
        A module from (b, 3, S, S) to (b, d, S / 16, S / 16).
    """
    built = ImageEncoderViT(
        img_size=image_size,
        patch_size=16,
        embed_dim=tower.width,
        depth=tower.layers,
        num_heads=tower.heads,
        mlp_ratio=4,
        out_chans=decoder_dim,
        norm_layer=_NORM,
        use_rel_pos=True,
        window_size=tower.window,
        global_attn_indexes=tower.global_layers,
    )
    for block in built.blocks:
        side = block.window_size or image_size // 16
        block.attn = GridAttention(tower.width, tower.heads, use_rel_pos=True, input_size=(side, side))
    return built


def siglip_vision(tower: SiglipVision, width: int) -> VisionTransformer:
    """Build SigLIP's image tower: the module that open_clip wraps, at any size.

    Args:
        tower: Its numbers.
        width: Of its tokens.

    Returns:
        A module whose `forward_features` goes from (b, 3, side, side) to (b, cells, width). It has a pooling head,
        which RSRefSeg never asks, so that every published weight has its place.
    """
    return VisionTransformer(
        img_size=tower.image_size,
        patch_size=tower.patch_size,
        embed_dim=width,
        depth=tower.layers,
        num_heads=tower.heads,
        mlp_ratio=_ratio(tower.mlp_dim, width),
        class_token=False,
        global_pool="map",
        num_classes=0,
        norm_layer=_NORM,
        act_layer=_SIGLIP_GELU,
    )


class PackedAttention(nn.Module):
    """What nn.MultiheadAttention does, by two linear layers that can have adapters.

    The original reads its layers' weights without calling them, so an adapter on it would do nothing.

    Args:
        width: Of the tokens.
        heads: That share it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Attend to oneself.

        Args:
            query: (n, t, width).
            key: The same; it is not looked at.
            value: The same; it is not looked at.
            need_weights: Never.
            attn_mask: (n * heads, t, t), added to the logits.

        Returns:
            (n, t, width), and no weights.
        """
        n, t, _ = query.shape
        mask = None if attn_mask is None else attn_mask.view(n, self.heads, t, t)
        return self.out_proj(self_attention(self.in_proj(query), self.heads, mask)), None


def siglip_text(tower: SiglipText, width: int) -> TextTransformer:
    """Build SigLIP's text tower.

    Args:
        tower: Its numbers.
        width: Of its tokens and of the space they are compared in.

    Returns:
        open_clip's tower, its attention replaced by one that can have adapters.
    """
    built = TextTransformer(
        context_length=tower.positions,
        vocab_size=tower.vocab_size,
        width=width,
        heads=tower.heads,
        layers=tower.layers,
        mlp_ratio=_ratio(tower.mlp_dim, width),
        output_dim=width,
        no_causal_mask=True,
        pool_type="none",
        proj_bias=True,
        act_layer=_SIGLIP_GELU,
        norm_layer=partial(LayerNorm, eps=1e-6),
    )
    for block in built.transformer.resblocks:
        block.attn = PackedAttention(width, tower.heads)
    return built


def _ratio(mlp_dim: int, width: int) -> float:
    return (mlp_dim + 0.5) / width  # both packages multiply by the width and round down


class PairedImageEncoder(nn.Module):
    """SAM's image encoder for where things are, SigLIP's for what they are.

    Args:
        towers: Numbers of both.
        image_size: Side S of the square that comes in, in pixels.
        clip_dim: Channels c of SigLIP's tokens.
        decoder_dim: Channels d of SAM's embedding.
    """

    def __init__(self, towers: PairedVits, image_size: int, clip_dim: int, decoder_dim: int) -> None:
        super().__init__()
        self.sam = sam_image_encoder(towers.sam, image_size, decoder_dim)
        self.siglip = siglip_vision(towers.siglip, clip_dim)
        # Published checkpoints hold SAM's position matrix twice and were trained with the image encoder's copy.
        self.frequencies = nn.Parameter(torch.randn(2, decoder_dim // 2))
        self._side = towers.siglip.image_size

    def forward(self, images: Tensor) -> ImageFeatures:
        """Encode images.

        Args:
            images: (b, 3, S, S) float in [0, 1].

        Returns:
            SAM's embedding at stride 16, and SigLIP's tokens as a map.
        """
        sam = self.sam(imagenet_normalised(images))  # (b, d, S/16, S/16)
        # From the S x S image, by plain sampling: averaging, as image libraries do, moves logits by half their spread.
        small = functional.interpolate(
            (images - 0.5) / 0.5, size=(self._side, self._side), mode="bilinear", align_corners=False, antialias=False
        )  # (b, 3, side, side)
        cells = self.siglip.forward_features(
            small
        )  # (b, g * g, c); what no patch covers on the right and below is lost
        grid = self.siglip.patch_embed.grid_size
        return ImageFeatures.of(sam=sam, clip=cells.transpose(1, 2).unflatten(2, grid))  # (b, c, g, g)


def adapt_images(encoder: PairedImageEncoder, lora: Lora) -> None:
    """Put adapters where published checkpoints have them: SAM's linear layers and neck, SigLIP's attention.

    Args:
        encoder: Changed in place.
        lora: Rank, scale and dropout.
    """
    for number in range(len(encoder.sam.blocks)):
        for name in ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"):
            adapt(encoder.sam, f"blocks.{number}.{name}", lora)
    adapt(encoder.sam, "neck.0", lora)
    adapt(encoder.sam, "neck.2", lora)
    for number in range(len(encoder.siglip.blocks)):
        adapt(encoder.siglip, f"blocks.{number}.attn.qkv", lora, groups=3)
        adapt(encoder.siglip, f"blocks.{number}.attn.proj", lora)
    adapt(encoder.siglip, "attn_pool.proj", lora)  # in the head that is never asked; the published ones have it


def adapt_text(tower: TextTransformer, lora: Lora) -> None:
    """Put adapters where published checkpoints have them: the attention, and the projection of the whole expression.

    Args:
        tower: Made by `siglip_text`; changed in place.
        lora: Rank, scale and dropout.
    """
    for number in range(len(tower.transformer.resblocks)):
        adapt(tower, f"transformer.resblocks.{number}.attn.in_proj", lora, groups=3)
        adapt(tower, f"transformer.resblocks.{number}.attn.out_proj", lora)
    adapt(tower, "text_projection", lora)
