"""The simulated model and the real one answer through the same door."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rsrefseg import Predictor
from workers.bench import Model
from workers.simulated import SimulatedPredictor

WORDS = ["the ship at the pier", "all storage tanks", "a road"]


@pytest.fixture(scope="module", params=["simulated", "real"])
def model(request: pytest.FixtureRequest) -> Model:
    return SimulatedPredictor(0.0) if request.param == "simulated" else Predictor.from_preset("tiny", device="cpu")


@pytest.mark.parametrize("size_hw", [(90, 130), (1, 1), (300, 2)])
def test_masks_are_bool_at_the_images_own_size(model: Model, size_hw: tuple[int, int]) -> None:
    for found in model.segment(model.encode_all([np.zeros((*size_hw, 3), np.uint8)])[0], WORDS):
        assert found.mask.shape == size_hw
        assert found.mask.dtype == bool
        assert 0 <= found.score <= 1
        assert 0 <= found.predicted_iou <= 1


def test_answers_keep_the_order_and_the_same_words_find_the_same(model: Model) -> None:
    image = np.zeros((90, 130, 3), np.uint8)
    found = model.segment(model.encode_all([image])[0], WORDS)
    again = model.segment(image, WORDS[::-1])[::-1]
    assert [(a.mask == b.mask).all() for a, b in zip(found, again, strict=True)] == [True] * 3


def test_a_model_names_its_version(model: Model) -> None:
    assert "@" in model.version


def test_a_simulated_image_takes_its_time_and_an_expression_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimulatedPredictor(0.2)
    started = time.monotonic()
    embedding, _ = model.encode_all([np.zeros((64, 64, 3), np.uint8)] * 2)
    assert time.monotonic() - started >= 0.4
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    masks = [found.mask for found in model.segment(embedding, WORDS)]
    assert slept == []
    assert all(0 < mask.mean() < 0.2 for mask in masks), "a disc, not the whole image"
    assert len({mask.tobytes() for mask in masks}) == len(WORDS), "other words, another place"
