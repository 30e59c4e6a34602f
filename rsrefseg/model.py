"""RSRefSeg: words prompt SAM's mask decoder (arXiv 2501.06809)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

from rsrefseg.attention import PromptAttention
from rsrefseg.encoders import build_encoders
from rsrefseg.features import NOT_A_POINT, ImageFeatures, PointPrompts, TextFeatures, of_each
from rsrefseg.lora import merge
from rsrefseg.places import alike, cells_in_box
from rsrefseg.position import fourier_of, fourier_position
from rsrefseg.presets import Preset, SharedTrunk
from rsrefseg.prompter import Prompter, Prompts
from rsrefseg.towers import PairedImageEncoder
from rsrefseg.upscaling import upscaled


class Decoded(NamedTuple):
    """Masks of n expressions, before the threshold."""

    low_res_logits: Tensor
    """(n, S/4, S/4)."""
    predicted_iou: Tensor
    """(n,), the decoder's estimate; not bounded while training."""
    activation: Tensor
    """(n, g, g), logits of the coarse match between words and cells."""


class RSRefSeg(nn.Module):
    """Image and expressions to mask logits; the graph is the same for every preset.

    Args:
        preset: The size.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        d = preset.decoder_dim
        self.image_encoder, self.text_encoder = build_encoders(preset)
        self.prompter = Prompter(preset.clip_dim, d, preset.image if isinstance(preset.image, SharedTrunk) else None)
        grid = preset.image_size // 16
        self.prompt_encoder = PromptEncoder(d, (grid, grid), (preset.image_size, preset.image_size), mask_in_chans=16)
        self.mask_decoder = MaskDecoder(
            transformer_dim=d,
            transformer=TwoWayTransformer(2, d, preset.decoder_heads, preset.decoder_mlp_dim),
            num_multimask_outputs=preset.multimask_outputs,
        )
        PromptAttention.take_over(self.mask_decoder)
        for layer in self.mask_decoder.transformer.layers:
            for norm in (layer.norm1, layer.norm2, layer.norm3, layer.norm4):
                norm.eps = 1e-6  # as the published checkpoints were trained; segment_anything has 1e-5
        if not isinstance(preset.image, SharedTrunk):
            self.prompter.logit_scale.requires_grad_(False)  # SigLIP's own, frozen as its towers are
            self.prompter.logit_bias.requires_grad_(False)
            # Published checkpoints hold this matrix as well, among what trains, though nothing reads it.
            matrix = self.prompt_encoder.pe_layer._buffers.pop("positional_encoding_gaussian_matrix")
            self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix = nn.Parameter(matrix)

    @property
    def frequencies(self) -> Tensor:
        """SAM's random matrix (2, d / 2) that positions are encoded with."""
        if isinstance(self.image_encoder, PairedImageEncoder):
            return self.image_encoder.frequencies
        matrix: Tensor = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        return matrix

    def learnt_names(self) -> set[str]:
        """Name what training changes, running statistics included: all that a checkpoint of adapters holds.

        Returns:
            Names of the state dict.
        """
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return trained | {f"prompter.{name}" for name, _ in self.prompter.named_buffers()}

    def merge_adapters(self) -> None:
        """Add the adapters to the weights: the same masks for less work, and no further training."""
        merge(self)
        self.preset = replace(self.preset, lora=None)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encode images once, for any number of expressions.

        Args:
            images: (b, 3, S, S) float in [0, 1].

        Returns:
            Features of b images.
        """
        features: ImageFeatures = self.image_encoder(images)
        return features

    def encode_text(self, token_ids: Sequence[Tensor]) -> TextFeatures:
        """Encode expressions.

        Args:
            token_ids: n tensors (t_i,) int64, unpadded, end token included.

        Returns:
            Features of n expressions.
        """
        features: TextFeatures = self.text_encoder(token_ids)
        return features

    def decode(
        self,
        image: ImageFeatures,
        text: TextFeatures | None,
        image_index: Tensor,
        at_once: int | None = None,
        pointed: PointPrompts | None = None,
    ) -> Decoded:
        """Draw one mask for each expression, for each place that was pointed at, or for both together.

        Args:
            image: Features of b images.
            text: Features of n expressions; None where nothing is said, and what is pointed at is drawn.
            image_index: (n,) int64, which image each mask is about.
            at_once: Most masks to draw at a time; None for all.
            pointed: Where a person pointed for each of the n; None where nowhere.

        Returns:
            Logits and estimates for n masks.
        """
        frequencies = self.frequencies
        h, w = image.sam.shape[2:]
        if text is None and pointed is not None and isinstance(self.preset.image, SharedTrunk):
            text = alike(image.clip, image_index, pointed)  # SAM learnt from a billion masks to do without
        if text is None:
            n = len(image_index)
            sparse = image.sam.new_zeros(n, 0, image.sam.shape[1])
            prompts = Prompts(sparse, sparse.new_zeros(n, *image.clip.shape[2:]), sparse.new_zeros(n, 0))
        else:
            searched = None if pointed is None else cells_in_box(pointed, (image.clip.shape[2], image.clip.shape[3]))
            prompts = self.prompter(image, text, image_index, frequencies, searched)
        position = fourier_position(frequencies, (h, w))
        size, said = at_once or len(image_index), text is not None
        if pointed is None:
            logits, predicted_iou = self._drawn(image, image_index, prompts, position, size, said=said)
            return Decoded(logits, predicted_iou, prompts.activation)
        # Those who pointed nowhere have as many prompts as without the others.
        somewhere = (pointed.kinds != NOT_A_POINT).any(1)
        places = self._places(pointed).to(prompts.sparse.dtype)
        with_places = prompts._replace(sparse=torch.cat([prompts.sparse, places], dim=1))  # (n, k, d)
        groups = [(rows, those) for rows, those in ((~somewhere, prompts), (somewhere, with_places)) if rows.any()]
        drawn = [
            self._drawn(image, image_index[rows], Prompts(*(part[rows] for part in those)), position, size, said=said)
            for rows, those in groups
        ]
        logits, predicted_iou = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        order = torch.cat([rows.nonzero()[:, 0] for rows, _ in groups]).argsort()
        return Decoded(logits[order], predicted_iou[order], prompts.activation)

    def _drawn(
        self,
        image: ImageFeatures,
        image_index: Tensor,
        prompts: Prompts,
        position: Tensor,
        at_once: int,
        *,
        said: bool,
    ) -> tuple[Tensor, Tensor]:
        parts = zip(image_index.split(at_once), *(part.split(at_once) for part in prompts), strict=True)
        drawn = (self._draw(image, about, Prompts(*part), position, said=said) for about, *part in parts)
        logits, predicted_iou = zip(*drawn, strict=True)
        return torch.cat(logits), torch.cat(predicted_iou)

    def _places(self, pointed: PointPrompts) -> Tensor:
        encoder = self.prompt_encoder
        kinds = torch.cat([encoder.not_a_point_embed.weight, *(kind.weight for kind in encoder.point_embeddings)])
        places = fourier_of(self.frequencies, pointed.points)  # (n, k, d)
        there = (pointed.kinds != NOT_A_POINT)[..., None]
        return places * there + kinds[pointed.kinds + 1]

    def _draw(
        self, image: ImageFeatures, image_index: Tensor, prompts: Prompts, position: Tensor, *, said: bool
    ) -> tuple[Tensor, Tensor]:
        sam, eighth, quarter = (of_each(part, image_index) for part in (image.sam, image.eighth, image.quarter))
        h, w = sam.shape[2:]
        lean: Tensor | float = 0.0  # towards what the words show without the decoder
        if said:
            coarse = functional.interpolate(
                prompts.activation[:, None], size=(4 * h, 4 * w), mode="bilinear", align_corners=False
            )  # (n, 1, S/4, S/4)
            gain = self.prompter.finest_gain
            if gain is not None and quarter.shape[1]:
                finest = prompts.finest.to(quarter.dtype)
                fine = torch.einsum("nf,nfhw->nhw", finest, quarter)[:, None].to(coarse.dtype)
                # What is meant, and there: both have to hold. As -logaddexp(-coarse, -fine), which is far slower.
                coarse = fine - functional.softplus(fine - coarse)
                lean = gain * coarse[:, 0].to(quarter.dtype)
            downscaling = self.prompt_encoder.mask_downscaling
            dense = downscaling(coarse.to(downscaling[0].weight.dtype))  # (n, d, S/16, S/16)
        else:
            dense = self.prompt_encoder.no_mask_embed.weight[:, :, None, None]  # (1, d, 1, 1)
        # segment_anything's own forward repeats the images by the prompts, so it serves one image only.
        decoder = self.mask_decoder
        n = sam.shape[0]
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None].expand(n, -1, -1)
        tokens = torch.cat([own, prompts.sparse.to(own.dtype)], dim=1)  # (n, 1 + masks + k, d)
        tokens, cells = decoder.transformer(sam + dense, position.to(sam.dtype).expand_as(sam), tokens)
        pixels = upscaled(decoder, cells.unflatten(1, (h, w)), eighth, quarter)  # (n, S/4, S/4, d/8)
        weights = decoder.output_hypernetworks_mlps[0](tokens[:, 1])  # (n, d/8)
        logits = torch.einsum("nc,nhwc->nhw", weights, pixels) + lean
        return logits, decoder.iou_prediction_head(tokens[:, 0])[:, 0]

    def low_res_logits(self, image: Tensor, token_ids: Sequence[Tensor]) -> Tensor:
        """Segment below the tokenizer: the door for parity checks.

        Args:
            image: (3, S, S) float in [0, 1].
            token_ids: n tensors (t_i,) int64, unpadded, end token included.

        Returns:
            (n, S/4, S/4) logits.
        """
        about = torch.zeros(len(token_ids), dtype=torch.long, device=image.device)
        return self.decode(self.encode_image(image[None]), self.encode_text(token_ids), about).low_res_logits
