import numpy as np
import pytest

from rsrefseg.errors import BadImage, BadRequest


def test_masks_have_the_images_own_size(predictor, image):
    [found] = predictor.segment(image, ["the ship"])
    assert found.mask.shape == (90, 130)
    assert found.mask.dtype == bool


def test_scores_stay_between_nought_and_one(predictor, image):
    for found in predictor.segment(image, ["the ship", "all tanks", "nothing at all"]):
        assert 0 <= found.score <= 1
        assert 0 <= found.predicted_iou <= 1


def test_asking_an_encoded_image_equals_asking_the_image(predictor, image):
    words = ["the ship", "the large airplane on the left"]
    directly = predictor.segment(image, words)
    later = predictor.segment(predictor.encode(image), words)
    assert [(a.mask == b.mask).all() for a, b in zip(directly, later, strict=True)] == [True, True]


def test_answers_keep_the_order_of_the_questions(predictor, image):
    words = ["b", "a", "c"]
    assert [found.expression for found in predictor.segment(image, words)] == words


def test_no_questions_give_no_answers(predictor, image):
    assert predictor.segment(image, []) == []


def test_one_string_is_not_taken_for_many_letters(predictor, image):
    with pytest.raises(TypeError, match="list of strings"):
        predictor.segment(image, "ship")


def test_an_empty_expression_is_refused(predictor, image):
    with pytest.raises(BadRequest, match="expression is empty"):
        predictor.segment(image, ["the ship", " "])


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 700, 3), (900, 2, 3)])
def test_odd_sizes_are_answered(predictor, shape):
    [found] = predictor.segment(np.zeros(shape, np.uint8), ["the ship"])
    assert found.mask.shape == shape[:2]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.full((5, 5, 3), np.nan),
    ],
)
def test_what_is_not_an_rgb_image_is_refused_with_what_it_is(predictor, wrong):
    with pytest.raises(BadImage, match=r"uint8 RGB, this is \("):
        predictor.encode(wrong)
