from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rsrefseg.calibration import UNCALIBRATED, Calibration, SecondLook
from rsrefseg.datasets import Sample
from rsrefseg.errors import BadDataset
from rsrefseg.evaluate import calibrate_second_looks
from rsrefseg.predictor import Predictor, Segment
from rsrefseg.second_look import disagreements
from rsrefseg.sketch import SIZE, sketch

IMAGE = np.zeros((64, 96, 3), np.uint8)
IMAGE[:20, :30] = 200  # what is on the top left


class Bright:
    """Finds what is bright, or the half that the words name, whether it is there or not."""

    model = SimpleNamespace(preset=SimpleNamespace(image_size=48, antialias=True))

    def __init__(self, *, deaf: bool) -> None:
        self.deaf = deaf
        self.calibration = UNCALIBRATED
        self.asked: list[str] = []

    def encode(self, image: np.ndarray) -> np.ndarray:
        return image

    def segment(self, image: np.ndarray, expressions: Sequence[str]) -> list[Segment]:
        self.asked += expressions
        return [Segment(words, self._mask(image, words), 0.5, 0.5) for words in expressions]

    def _mask(self, image: np.ndarray, words: str) -> np.ndarray:
        mask: np.ndarray = image[:, :, 0] > 100
        if self.deaf and ("left" in words or "right" in words):
            mask = np.zeros_like(mask)
            mask[:, : mask.shape[1] // 2] = True
        return mask


def test_who_sees_what_is_said_agrees_with_themselves_in_every_mirror():
    model: Any = Bright(deaf=False)
    [first] = model.segment(IMAGE, ["the top left ship"])
    assert disagreements(model, IMAGE, [first]) == [pytest.approx(0, abs=0.05)]
    assert {"the top right ship", "the bottom left ship", "the top left boat"} <= {*model.asked}


def test_who_says_left_whatever_they_see_is_found_out():
    model: Any = Bright(deaf=True)
    [first] = model.segment(IMAGE, ["the left ship"])
    [apart] = disagreements(model, IMAGE, [first])
    assert apart == pytest.approx(1 / 4)  # one of the four, the mirror that exchanges left and right


def test_answers_are_looked_at_in_their_order():
    model: Any = Bright(deaf=False)
    [first] = model.segment(IMAGE, ["the ship"])
    wrong = Segment("all cars", ~first.mask, 0.5, 0.5)
    same, other = disagreements(model, IMAGE, [first, wrong])
    assert same < 0.05
    assert other == 1.0
    assert disagreements(model, IMAGE, []) == []


def test_what_a_second_look_is_worth_is_learnt_from_the_uncertain_answers():
    model: Any = Bright(deaf=True)
    bright = IMAGE[:, :, 0] > 100
    samples = [
        Sample(f"{n}", Path(f"{n}.png"), words, "ship", bright, kind="plain", pixels=IMAGE)
        for n, words in enumerate(["the left ship", "the ship"] * 12)
    ]
    calibration = calibrate_second_looks(model, samples)
    assert calibration.score_again(0.5, 0.25) < 0.4 < 0.6 < calibration.score_again(0.5, 0.0)
    with pytest.raises(BadDataset, match="second looks are worth"):
        calibrate_second_looks(model, samples[:6])


def test_a_predictor_thinks_again_where_its_checkpoint_says_how(model, image):
    plain = Predictor(model, "tiny@1")
    segments = plain.segment(image, ["the left ship", "all boats"])
    assert plain.look_again(image, segments) == segments
    wary = Predictor(model, "tiny@1", calibration=Calibration(1.0, 0.0, SecondLook(slope=4.0, bias=0.5)))
    apart = disagreements(wary, image, segments)
    for one, again, disagreement in zip(segments, wary.look_again(image, segments), apart, strict=True):
        assert (again.mask == one.mask).all()
        odds = np.log(one.score / (1 - one.score)) + 0.5 - 4.0 * disagreement
        assert again.score == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)


def test_a_sketch_is_short_and_keeps_neighbours_near():
    rng = np.random.default_rng(0)
    one = rng.standard_normal(200)
    near, far = one + 0.1 * rng.standard_normal(200), rng.standard_normal(200)
    sketches = [sketch(features).astype(float) for features in (one, near, far, 3 * one)]
    assert sketch(one).dtype == np.float16
    assert sketch(one).shape == (SIZE,)
    assert np.linalg.norm(sketches[0]) == pytest.approx(1, abs=1e-2)
    assert np.linalg.norm(sketches[0] - sketches[1]) < 0.3 < 0.9 < np.linalg.norm(sketches[0] - sketches[2])
    assert np.linalg.norm(sketches[0] - sketches[3]) < 1e-2


def test_images_that_look_alike_have_near_sketches(model):
    predictor = Predictor(model, "tiny@1")
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    alike = np.clip(picture.astype(int) + rng.integers(-3, 4, picture.shape), 0, 255).astype(np.uint8)
    other = np.full_like(picture, 30)
    one, near, far = (predictor.sketch(predictor.encode(each)).astype(float) for each in (picture, alike, other))
    assert np.linalg.norm(one - near) < 0.2 * np.linalg.norm(one - far)
