"""Bright squares on dark ground, and a small model that can be taught to find them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rsrefseg import checkpoint
from rsrefseg.model import RSRefSeg
from rsrefseg.presets import TINY, SharedTrunk


def square(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright square on dark ground, and where it is."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (128, 128, 3), dtype=np.uint8)
    x, y = rng.integers(5, 80, 2)
    mask = np.zeros((128, 128), bool)
    mask[y : y + 40, x : x + 40] = True
    pixels[mask] = 230
    return pixels, mask


SMALL = replace(
    TINY,
    image_size=128,
    clip_dim=32,
    decoder_dim=32,
    decoder_heads=4,
    decoder_mlp_dim=32,
    image=SharedTrunk(channels=(8, 8, 16, 16), blocks=(1, 1, 1, 1), pyramid=(8, 8), colours=9),
    text=replace(TINY.text, layers=2, width=32, heads=2, embedding_rank=8),
)
"""The preset tiny at the sizes of tests."""


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def small_base(folder: Path) -> Path:
    """A small model that knows nothing."""
    torch.manual_seed(0)
    model = RSRefSeg(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    checkpoint.save(model.eval(), folder, "")
    return folder


def dark_anchor(folder: Path) -> Path:
    """Nothing is to be found in dark images, which is easily kept."""
    (folder / "images").mkdir(parents=True)
    for split, seeds in (("train", range(4)), ("test", range(4, 8))):
        lines = []
        for seed in seeds:
            Image.fromarray(square(seed)[0] // 4).save(folder / f"images/{seed}.png")
            segmentation = {"size": [128, 128], "counts": [128 * 128]}
            lines.append(json.dumps({"file_name": f"{seed}.png", "sent": "the sea", "segmentation": segmentation}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder
