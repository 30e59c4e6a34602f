"""One image-expression-mask triplet, and the rows of a benchmark that are none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rsrefseg.datasets.regions import draw_regions
from rsrefseg.errors import BadDataset, BadImage
from rsrefseg.pictures import read_image


@dataclass(frozen=True)
class CorruptRow:
    """A row that says nothing usable: it is named and counted, never replaced by another."""

    place: str
    """File and record."""
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class MaskFile:
    """The truth is an image in which every pixel that is not zero belongs to it."""

    path: Path


@dataclass(frozen=True)
class Regions:
    """The truth is written down: run lengths or polygons, united."""

    segmentation: object
    """As COCO and its relatives write it."""
    size_hw: tuple[int, int] | None
    """Of the image, in pixels, where the annotation file says it."""


@dataclass(frozen=True)
class LineAt:
    """The truth is written down in a line of a file that stays as it is; large sets would fill the memory with it."""

    path: Path
    start: int
    """Where the line begins, in bytes."""

    def segmentation(self) -> object:
        """Read it.

        Returns:
            What the line has under `segmentation`.

        Raises:
            BadDataset: If the line is no longer there.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                return json.loads(file.readline())["segmentation"]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise BadDataset(f"{self.path} is not what it was when it was listed: {type(exc).__name__}") from exc


@dataclass(frozen=True, eq=False)
class Sample:
    """An expression about an image and what it refers to; nothing is read yet."""

    sample_id: str
    """Unique within the split, the same at every reading, and safe as a file name."""
    image_path: Path
    """Samples of one image share it; of an image in memory it is just a name."""
    expression: str
    category: str | None
    """Class of what is referred to, where the benchmark says it."""
    truth: MaskFile | Regions | LineAt | np.ndarray
    """Where the mask is, or the mask itself: (h, w) bool."""
    place: str = ""
    """File and record it was read from."""
    kind: str | None = None
    """Rule of the grammar that wrote the expression; None where a person did."""
    pixels: np.ndarray | None = None
    """(h, w, 3) uint8 RGB of an image in memory."""

    def image(self) -> np.ndarray:
        """Read the image.

        Returns:
            (h, w, 3) uint8 RGB.
        """
        return read_image(self.image_path) if self.pixels is None else self.pixels

    def gt_mask(self, size_hw: tuple[int, int] | None = None) -> np.ndarray:
        """Read the truth.

        Args:
            size_hw: The image's, where it has been read already; otherwise it is read for its size if need be.

        Returns:
            (h, w) bool.

        Raises:
            BadDataset: If the mask is damaged, or of another size than the image.
        """
        if isinstance(self.truth, np.ndarray):
            return self.truth
        if isinstance(self.truth, MaskFile):
            mask = _read_mask(self.truth.path)
        elif isinstance(self.truth, LineAt):
            size = size_hw or self.image().shape[:2]
            mask = draw_regions(self.truth.segmentation(), (size[0], size[1]))
        else:
            size = size_hw or self.truth.size_hw or self.image().shape[:2]
            if self.truth.size_hw not in (None, size):
                raise BadDataset(f"the annotation is for {_size(self.truth.size_hw)}, the image is {_size(size)}")
            mask = draw_regions(self.truth.segmentation, (size[0], size[1]))
        if size_hw not in (None, mask.shape):
            raise BadDataset(f"the mask is {_size(mask.shape)}, the image {_size(size_hw)}")
        return mask

    def corrupt(self, reason: str) -> CorruptRow:
        """Say why the sample cannot be used.

        Args:
            reason: One sentence.

        Returns:
            The row it came from.
        """
        return CorruptRow(self.place or self.sample_id, reason)


def _size(size_hw: tuple[int, ...] | None) -> str:
    assert size_hw is not None
    return f"{size_hw[1]} x {size_hw[0]}"


def _read_mask(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as file:
            values, bands = np.asarray(file), file.getbands()
    except FileNotFoundError as exc:
        raise BadImage(f"{path} does not exist") from exc
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as exc:
        raise BadImage(f"{path} cannot be read as an image: {exc}") from exc
    if values.ndim == 3:  # an opaque background is no object
        values = values[..., [band != "A" for band in bands]].max(axis=2)
    return np.asarray(values, dtype=bool)
