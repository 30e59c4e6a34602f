"""Regions as COCO and its relatives write them: run lengths, plain or compressed, and polygons."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

from rsrefseg.errors import BadDataset


def draw_regions(segmentation: object, size_hw: tuple[int, int]) -> np.ndarray:
    """Unite all parts of a `segmentation`.

    Args:
        segmentation: One run-length object {size, counts}, a list of them, or a list of polygons [x, y, x, y ...].
        size_hw: The image's, in pixels.

    Returns:
        (h, w) bool.

    Raises:
        BadDataset: If there is no part, or one is damaged or of another size.
    """
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    if not parts:
        raise BadDataset("the segmentation is empty")
    mask = np.zeros(size_hw, bool)
    for part in parts:
        mask |= _run_lengths(part, size_hw) if isinstance(part, dict) else _polygon(part, size_hw)
    return mask


def _run_lengths(rle: dict[str, object], size_hw: tuple[int, int]) -> np.ndarray:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, (list, tuple)) or tuple(size) != tuple(size_hw):
        raise BadDataset(f"the run lengths are for size (h, w) {size}, the image is {list(size_hw)}")
    try:
        runs = np.array(counts if isinstance(counts, list) else _decompressed(counts), dtype=np.int64)
    except (ValueError, TypeError, OverflowError, AttributeError) as exc:
        raise BadDataset(f"the run lengths cannot be read: {exc}") from exc
    h, w = size_hw
    # pycocotools fills what too short a list leaves over with whatever lies in memory.
    if runs.ndim != 1 or (runs < 0).any() or (runs > h * w).any() or runs.sum() != h * w:
        raise BadDataset(f"the run lengths do not add up to the image's {h} x {w} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(w, h).T  # by columns, background first


def _decompressed(counts: object) -> list[int]:
    # Six bits a character from "0" on: five of the number, low ones first, and one that says that more follow. From
    # the third run on it is the difference to the run before the last.
    # Source: cocodataset/cocoapi common/maskApi.c, rleFrString @ 8c9bcc3.
    data = counts if isinstance(counts, bytes) else str.encode(counts, "ascii")  # type: ignore[arg-type]
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        bits = byte - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"character {byte} does not belong there")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("they break off")
    return runs


def _polygon(corners: object, size_hw: tuple[int, int]) -> np.ndarray:
    h, w = size_hw
    try:
        points = np.array(corners, dtype=float)
    except (ValueError, TypeError) as exc:
        raise BadDataset(f"the polygon cannot be read: {exc}") from exc
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:
        raise BadDataset("a polygon is a list [x, y, x, y ...] of three points or more")
    # A little outside is common; pycocotools walks along every edge, so very far takes the machine's memory.
    far = max(h, w)
    if not (np.isfinite(points).all() and (points >= -far).all() and (points <= 2 * far).all()):
        raise BadDataset(f"the polygon lies far outside of the image's {h} x {w} pixels")
    rle = coco_mask.frPyObjects([points.tolist()], h, w)[0]
    return np.asarray(coco_mask.decode(rle), dtype=bool)
