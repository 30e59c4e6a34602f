"""A model of few weights and images whose right answer is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch

from rsrefseg.expressions import Thing
from rsrefseg.model import RSRefSeg
from rsrefseg.predictor import Predictor
from rsrefseg.presets import B, Lora, PairedVits, Preset, SamVit, SiglipText, SiglipVision
from tests.squares import SMALL

torch.set_num_threads(1)  # the models are too small to share, and threads that wait for each other stall a busy machine


@pytest.fixture(scope="session")
def small() -> Preset:
    return SMALL


@pytest.fixture
def model(small: Preset) -> RSRefSeg:
    """Random weights, but none of them zero, so that every path moves the output."""
    torch.manual_seed(0)
    model = RSRefSeg(small)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        estimate = model.mask_decoder.iou_prediction_head.layers[-1]  # of the IoU: one that clamping leaves alone
        estimate.weight.mul_(0.1)
        estimate.bias.fill_(0.5)
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


@pytest.fixture(scope="session")
def small_b() -> Preset:
    """Preset b at the sizes of `published.small_published`."""
    return replace(
        B,
        image_size=208,
        clip_dim=36,
        decoder_dim=32,
        decoder_mlp_dim=48,
        image=PairedVits(
            SamVit(width=24, layers=3, heads=2, window=5, global_layers=(1,)),
            SiglipVision(image_size=104, patch_size=14, layers=3, heads=3, mlp_dim=70),
        ),
        text=SiglipText(layers=3, heads=3, mlp_dim=70, positions=12, vocab_size=50),
        lora=Lora(rank=4, alpha=16.0),
    )


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> Path:
    """A sentencepiece model of fifty pieces, with SigLIP's special ones."""
    folder = tmp_path_factory.mktemp("words")
    phrases = [
        "the small white ship at the pier",
        "the large red airplane on the runway",
        "storage tanks left of the river",
        "a bridge in the topleft of the harbour",
        "tennis courts right of the building",
        "the vehicle behind the chimney and the dam",
        "golf field by the stadium",
    ]
    rng = np.random.default_rng(0)
    (folder / "corpus.txt").write_text(
        "\n".join(" ".join(rng.permutation(rng.choice(phrases).split())) for _ in range(700))
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=50,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return folder / "spiece.model"
