"""Numpy in, numpy out: the one door for inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from rsrefseg import checkpoint
from rsrefseg.errors import BadImage
from rsrefseg.features import ImageFeatures
from rsrefseg.model import RSRefSeg
from rsrefseg.tokenizer import Tokenize, tokenizer_for


@dataclass(frozen=True)
class ImageEmbedding:
    """What the model keeps of an image; ask about it as often as you like."""

    features: ImageFeatures
    size_hw: tuple[int, int]
    """Of the image itself, in pixels."""


@dataclass(frozen=True)
class Segment:
    """What an expression refers to."""

    expression: str
    mask: np.ndarray
    """(h, w) bool at the image's own size; all false where nothing fits the words."""
    score: float
    """Confidence in [0, 1] that the mask is right: the predicted IoU times how decided the pixels are."""
    predicted_iou: float
    """The mask decoder's own estimate, in [0, 1]."""


class Predictor:
    """Segment what words refer to.

    Args:
        model: In float32.
        version: Names the weights.
        device: "cpu", "cuda" or "cuda:1".
        tokenizer: Words to ids; None where the text tower needs no file for it.
    """

    def __init__(self, model: RSRefSeg, version: str, device: str = "cpu", tokenizer: Tokenize | None = None) -> None:
        self.model = model.to(device).eval()
        self.version = version
        self.device = torch.device(device)
        self._tokenizer = tokenizer or tokenizer_for(model.preset.text, None)

    @classmethod
    def from_preset(cls, name: str, device: str = "cpu") -> Predictor:
        """Load the weights that come with the package.

        Args:
            name: "tiny".
            device: Where to run.

        Returns:
            Ready to use.
        """
        return cls.from_checkpoint(checkpoint.shipped(name), device)

    @classmethod
    def from_checkpoint(
        cls, folder: str | Path, device: str = "cpu", foundation: str | Path | None = None
    ) -> Predictor:
        """Load weights from a folder.

        Args:
            folder: A checkpoint.
            device: Where to run.
            foundation: Where the foundation weights lie, for checkpoints of adapters alone; None for the default.

        Returns:
            Ready to use.
        """
        folder, below = Path(folder), Path(foundation) if foundation else None
        model = checkpoint.load(folder, below)
        words = checkpoint.vocabulary(folder, model.preset, below)
        model.merge_adapters()
        return cls(model, checkpoint.version(folder), device, tokenizer_for(model.preset.text, words))

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> ImageEmbedding:
        """Do the expensive part, which no expression changes.

        Args:
            image: (h, w, 3) uint8 RGB.

        Returns:
            The reusable part.

        Raises:
            BadImage: If the array is anything else.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise BadImage(f"an image is (h, w, 3) uint8 RGB, this is {image.shape} {image.dtype}")
        size = self.model.preset.image_size
        h, w = image.shape[:2]
        shrink = self.model.preset.antialias and h * w > size * size
        square = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
        pixels = torch.from_numpy(square).to(self.device).permute(2, 0, 1)[None].float() / 255  # (1, 3, S, S)
        return ImageEmbedding(self.model.encode_image(pixels), (h, w))

    @torch.inference_mode()
    def segment(self, image: np.ndarray | ImageEmbedding, expressions: Sequence[str]) -> list[Segment]:
        """Find what each expression refers to.

        Args:
            image: (h, w, 3) uint8 RGB, or what `encode` made of it.
            expressions: Words in plain English.

        Returns:
            One segment for each expression, in their order.

        Raises:
            TypeError: If one string is given instead of several.
        """
        if isinstance(expressions, str):
            raise TypeError("expressions is a list of strings: write ['the ship'] for one")
        if not expressions:
            return []
        embedding = image if isinstance(image, ImageEmbedding) else self.encode(image)
        token_ids = [self._tokenizer(expression).to(self.device) for expression in expressions]
        about = torch.zeros(len(token_ids), dtype=torch.long, device=self.device)
        decoded = self.model.decode(embedding.features, self.model.encode_text(token_ids), about)
        return [
            self._segment(expression, logits, float(predicted_iou.clamp(0, 1)), embedding.size_hw)
            for expression, logits, predicted_iou in zip(
                expressions, decoded.low_res_logits, decoded.predicted_iou, strict=True
            )
        ]

    def _segment(
        self, expression: str, low_res_logits: torch.Tensor, predicted_iou: float, size_hw: tuple[int, int]
    ) -> Segment:
        size = self.model.preset.image_size
        logits = low_res_logits.float()[None, None]
        for step in ((size, size), size_hw):  # in two steps, as the model was trained and published
            logits = functional.interpolate(logits, size=step, mode="bilinear", align_corners=False)
        mask = (logits[0, 0] > 0).cpu().numpy()
        probability = torch.sigmoid(low_res_logits.float())
        inside = probability > 0.5
        decided = float(probability[inside].mean()) if bool(inside.any()) else 1 - float(probability.max())
        return Segment(expression, mask, predicted_iou * decided, predicted_iou)
