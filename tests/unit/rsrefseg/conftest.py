"""A model of few weights and images whose right answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rsrefseg.expressions import Thing
from rsrefseg.model import RSRefSeg
from rsrefseg.predictor import Predictor
from rsrefseg.presets import TINY, Preset
from rsrefseg.tokenizer import Tokenizer

torch.set_num_threads(1)  # the models are too small to share, and threads that wait for each other stall a busy machine


@pytest.fixture(scope="session")
def small() -> Preset:
    return replace(
        TINY,
        image_size=128,
        clip_dim=32,
        decoder_dim=32,
        decoder_heads=4,
        decoder_mlp_dim=32,
        text_layers=2,
        text_width=32,
        text_heads=2,
        text_embedding_rank=8,
        trunk_channels=(8, 8, 16, 16),
        trunk_blocks=(1, 1, 1, 1),
    )


@pytest.fixture
def model(small: Preset) -> RSRefSeg:
    """Random weights, but none of them zero, so that every path moves the output."""
    torch.manual_seed(0)
    model = RSRefSeg(small, Tokenizer(small.text_positions).vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def predictor(model: RSRefSeg) -> Predictor:
    return Predictor(model, "random@00000000")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)


def disc(x: float, y: float, radius: float, side: int = 100) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return np.hypot(columns - x * side, rows - y * side) < radius * side


@pytest.fixture
def things() -> tuple[Thing, ...]:
    """Three ships in a row, the right one the largest, and one bridge beside the left one."""
    return (
        Thing("ship", disc(0.15, 0.5, 0.04), "red"),
        Thing("ship", disc(0.5, 0.5, 0.04), "white"),
        Thing("ship", disc(0.85, 0.5, 0.09), "white"),
        Thing("bridge", disc(0.15, 0.8, 0.06)),
    )
