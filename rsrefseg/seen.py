"""Images as a lesson needs them, on disk: read, squared and, where the encoder is not taught, encoded once each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rsrefseg.features import ImageFeatures
from rsrefseg.pictures import squared
from rsrefseg.predictor import Predictor


class Seen(Protocol):
    """Images by their paths."""

    mask_side: int
    """Of the masks that the model draws of them, in pixels."""

    def keep(self, image: Path, pixels: np.ndarray) -> None:
        """Take an image in; one that was taken in before is left alone.

        Args:
            image: Its path.
            pixels: (h, w, 3) uint8 RGB.
        """

    def get(self, images: Sequence[Path]) -> ImageFeatures | Tensor:
        """Give images that were taken in.

        Args:
            images: n paths.

        Returns:
            Features of n images, or (n, 3, s, s) float in [0, 1] where the encoder is to see them.
        """


class SeenFeatures:
    """Features in half precision: however long is learnt from them, the encoder runs once for each image.

    Args:
        predictor: Encodes.
        folder: Where they are kept; of one base alone.
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self._predictor = predictor
        self._folder = folder
        self.mask_side = predictor.model.preset.image_size // 4

    def keep(self, image: Path, pixels: np.ndarray) -> None:
        """Encode an image, unless that was done before.

        Args:
            image: Its path.
            pixels: (h, w, 3) uint8 RGB.
        """
        if not _file(self._folder, image).is_file():
            features = self._predictor.encode(pixels).features
            _save(self._folder, image, {name: part.half() for name, part in features._asdict().items()})

    def get(self, images: Sequence[Path]) -> ImageFeatures:
        """Read features back.

        Args:
            images: n paths.

        Returns:
            Features of n images, in float32, where the model is.
        """
        device = str(self._predictor.device)
        each = [load_file(_file(self._folder, image), device=device) for image in images]
        return ImageFeatures(**{
            name: torch.cat([one[name] for one in each]).to(torch.float32) for name in ImageFeatures._fields
        })


class SeenPixels:
    """The squares that the encoder sees, at a size of their own: smaller ones are learnt from faster.

    Args:
        predictor: Whose encoder it is.
        folder: Where they are kept; of one size alone.
        side: Of the squares, in pixels; a multiple of 64.
    """

    def __init__(self, predictor: Predictor, folder: Path, side: int) -> None:
        self._predictor = predictor
        self._folder = folder
        self._side = side
        self.mask_side = side // 4

    def keep(self, image: Path, pixels: np.ndarray) -> None:
        """Square an image, unless that was done before.

        Args:
            image: Its path.
            pixels: (h, w, 3) uint8 RGB.
        """
        if not _file(self._folder, image).is_file():
            square = squared(pixels, self._side, self._predictor.model.preset.antialias)
            _save(self._folder, image, {"pixels": torch.from_numpy(square)})

    def get(self, images: Sequence[Path]) -> Tensor:
        """Read squares back.

        Args:
            images: n paths.

        Returns:
            (n, 3, side, side) float in [0, 1], where the model is.
        """
        squares = torch.stack([load_file(_file(self._folder, image))["pixels"] for image in images])
        pixels = squares.to(self._predictor.device).permute(0, 3, 1, 2).float() / 255
        return pixels.contiguous(memory_format=torch.channels_last)


def _file(folder: Path, image: Path) -> Path:
    return folder / f"{hashlib.sha256(str(image).encode()).hexdigest()[:32]}.safetensors"


def _save(folder: Path, image: Path, parts: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = _file(folder, image)
    partial = path.with_suffix(".part")
    save_file({name: part.detach().cpu().contiguous() for name, part in parts.items()}, partial)
    partial.replace(path)
