"""Features of images on disk in half precision: encoded once each, however long is learnt from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from rsrefseg.features import ImageFeatures
from rsrefseg.predictor import Predictor


class SeenFeatures:
    """Features by the path of their image.

    Args:
        predictor: Encodes.
        folder: Where they are kept; of one base alone.
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self._predictor = predictor
        self._folder = folder
        self.mask_side = predictor.model.preset.image_size // 4
        """Of the masks that the model draws, in pixels."""

    def keep(self, image: Path, pixels: np.ndarray) -> None:
        """Encode an image, unless that was done before.

        Args:
            image: Its path.
            pixels: (h, w, 3) uint8 RGB.
        """
        path = self._file(image)
        if path.is_file():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        features = self._predictor.encode(pixels).features
        halves = {name: part.half().cpu().contiguous() for name, part in features._asdict().items()}
        partial = path.with_suffix(".part")
        save_file(halves, partial)
        partial.replace(path)

    def get(self, images: Sequence[Path]) -> ImageFeatures:
        """Read features back.

        Args:
            images: n paths, that were kept.

        Returns:
            Features of n images, in float32, where the model is.
        """
        device = str(self._predictor.device)
        each = [load_file(self._file(image), device=device) for image in images]
        return ImageFeatures(**{
            name: torch.cat([one[name] for one in each]).to(torch.float32) for name in ImageFeatures._fields
        })

    def _file(self, image: Path) -> Path:
        return self._folder / f"{hashlib.sha256(str(image).encode()).hexdigest()[:32]}.safetensors"
