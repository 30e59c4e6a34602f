from dataclasses import replace

import numpy as np
import pytest
import torch

from rsrefseg.datasets import LabelledImage
from rsrefseg.errors import BadRequest
from rsrefseg.expressions import Thing
from rsrefseg.predictor import Predictor
from rsrefseg.train import Phase, Recipe, Trainer, train

QUICK = Recipe(
    phases=(Phase(2, 64, (0.9, 1.0), 4, 0), Phase(4, 64, (0.9, 1.0), 4, 3)), warmup_steps=2, word_steps=2, seed=3
)


def squares(count: int = 6) -> list[LabelledImage]:
    """Bright squares on dark ground, left and right: something that can be learnt in seconds."""
    images = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 60, (128, 128, 3), dtype=np.uint8)
        things = []
        for x in (10, 80):
            y = int(rng.integers(5, 85))
            mask = np.zeros((128, 128), bool)
            mask[y : y + 36, x : x + 36] = True
            image[mask] = 230
            things.append(Thing("building", mask))
        images.append(LabelledImage.of(image, things, ("building",)))
    return images


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(small, tmp_path):
    sources = [(squares(), 1.0)]
    unbroken = Trainer(small, QUICK, sources, tmp_path / "a")
    losses = [unbroken.learn(batch) for _, batch in unbroken.batches()]

    first = Trainer(small, QUICK, sources, tmp_path / "b")
    before = [first.learn(batch) for (_, batch), _ in zip(first.batches(), range(3), strict=False)]
    first.keep()
    second = Trainer(small, replace(QUICK), sources, tmp_path / "b")
    assert second.resume()
    after = [second.learn(batch) for _, batch in second.batches()]
    assert before + after == pytest.approx(losses, abs=1e-6)


def test_training_teaches(small, tmp_path):
    recipe = Recipe(
        phases=(Phase(160, 128, (0.95, 1.0), 4, 2),), warmup_steps=10, word_steps=20, learning_rate=2e-3, ema_decay=0.9
    )
    scores = train(small, recipe, [(squares(), 1.0)], {"seen": squares()}, tmp_path)
    assert scores["seen"].overall.mIoU > 45
    predictor = Predictor.from_checkpoint(tmp_path / "checkpoint")
    [both] = predictor.segment(squares()[0].image, ["all buildings"])
    assert both.mask[squares()[0].ids > 0].mean() > 0.7


def test_a_run_is_not_started_over_by_accident(small, tmp_path):
    (tmp_path / "training.pt").write_bytes(b"")
    with pytest.raises(BadRequest, match="--resume"):
        train(small, QUICK, [(squares(), 1.0)], {}, tmp_path)


def test_the_learning_rate_warms_up_and_falls():
    recipe = Recipe(phases=(Phase(100, 64, (1, 1), 1, 1),), warmup_steps=10, learning_rate=1.0)
    rates = [recipe.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.02


def test_resuming_reads_no_code_from_the_file(small, tmp_path):
    torch.save({"model": print}, tmp_path / "training.pt")
    with pytest.raises(Exception, match=r"(?i)weights"):
        Trainer(small, QUICK, [(squares(), 1.0)], tmp_path).resume()
