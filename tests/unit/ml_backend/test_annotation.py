from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ml_backend import brush
from ml_backend.annotation import task_to_corrections
from ml_backend.label_config import read_label_config
from ml_backend.protocol import AnnotatedTask
from ml_backend.translate import answer_to_prediction, task_to_job
from tests.factories import make_answer
from workers.contract import Found, Rle
from workers.corrections import AnnotationRecord, Correction, TaskCorrections

CONFIG = read_label_config("""<View><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image"><Label value="target"/><Label value="ship"/></BrushLabels>
<RectangleLabels name="box" toName="image"><Label value="car"/></RectangleLabels>
<TextArea name="prompt" toName="image" value="$expression"/>
<TextArea name="words" toName="image" perRegion="true"/></View>""")

BY_LABEL = read_label_config("""<View><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image"><Label value="target"/><Label value="ship"/></BrushLabels></View>""")

SIZE_HW = (6, 8)
LEFT, RIGHT = np.zeros(SIZE_HW, bool), np.zeros(SIZE_HW, bool)
LEFT[1:4, 1:4], RIGHT[1:4, 5:7] = True, True


def region(mask: np.ndarray = LEFT, name: str = "a", label: str = "target", **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": [label]},
        **fields,
    }


def text(words: str, name: str = "t", from_name: str = "prompt") -> dict[str, Any]:
    value = {"text": [words]}
    return {"id": name, "from_name": from_name, "to_name": "image", "type": "textarea", "value": value}


def annotation(result: Any, number: int = 1, **fields: Any) -> dict[str, Any]:
    at = "2026-11-24T00:17:48.880793Z"
    return {"id": number, "result": result, "updated_at": at, "completed_by": 3, "lead_time": 2.5, **fields}


def prediction(*masks: np.ndarray | None, expressions: str = "the ship", number: int = 9) -> dict[str, Any]:
    """As our courier writes it, a mask for each line of the task's expressions."""
    task = make_task(expressions=expressions)
    job = task_to_job(task, 1, CONFIG)
    found = [
        Found(expression=ask.expression, label=ask.label, mask=Rle.from_mask(mask), score=0.8, predicted_iou=0.9)
        for ask, mask in zip(job.asks, [np.zeros(SIZE_HW, bool) if one is None else one for one in masks], strict=True)
    ]
    return {"id": number, **answer_to_prediction(make_answer(job, found=tuple(found)))}


def make_task(
    *annotations: dict[str, Any], predictions: Any = (), expressions: str | None = "the ship", **data: Any
) -> AnnotatedTask:
    words = {} if expressions is None else {"expression": expressions}
    sent = {
        "id": 7,
        "updated_at": "2026-11-24T00:17:49Z",
        "data": {"image": "/data/7.png", **words, **data},
        "annotations": annotations,
        "predictions": predictions,
    }
    return AnnotatedTask.model_validate(json.loads(json.dumps(sent)))


def gathered(task: AnnotatedTask, config: Any = CONFIG, before: TaskCorrections | None = None) -> AnnotationRecord:
    [record] = task_to_corrections(task, 1, config, before).annotations
    return record


def only(task: AnnotatedTask, config: Any = CONFIG) -> Correction:
    [correction] = gathered(task, config).corrections
    return correction


def mask_in(correction: Correction) -> np.ndarray:
    assert correction.mask is not None
    return correction.mask.to_mask()


def test_an_untouched_prediction_is_accepted_with_its_way():
    shown = prediction(LEFT)
    record = gathered(make_task(annotation(shown["result"], parent_prediction=9), predictions=[shown]))
    assert (record.annotation_id, record.annotator, record.lead_time_s) == (1, 3, 2.5)
    assert (record.prediction_id, record.model_version) == (9, "tiny@0")
    [correction] = record.corrections
    assert (correction.expression, correction.label, correction.origin) == ("the ship", "ship", "accepted")
    assert correction.iou == 1
    assert (mask_in(correction) == LEFT).all()


def test_a_changed_mask_says_how_far_it_is_from_what_was_shown():
    shown = prediction(LEFT)
    [was, *_] = shown["result"]
    now = {**was, **region(LEFT | RIGHT, was["id"], "ship"), "origin": "prediction-changed"}
    task = make_task(annotation([now], parent_prediction=9), predictions=[shown])
    correction = only(task)
    assert correction.origin == "changed"
    assert correction.iou == pytest.approx(9 / 15)
    assert (mask_in(correction) == (LEFT | RIGHT)).all()
    assert correction.shown == Rle.from_mask(LEFT)


def test_what_the_editor_drew_anew_without_a_change_is_still_accepted():
    shown = prediction(np.ones(SIZE_HW, bool))
    nearly = np.ones(SIZE_HW, bool)
    nearly[0, 0] = False
    [was, *_] = shown["result"]
    for origin, expected in [("prediction", "accepted"), ("prediction-changed", "changed")]:
        now = {**was, **region(nearly, was["id"], "ship"), "origin": origin}
        assert only(make_task(annotation([now], parent_prediction=9), predictions=[shown])).origin == expected


def test_a_mask_without_a_prediction_is_drawn():
    record = gathered(make_task(annotation([region()])))
    assert record.prediction_id is None
    [correction] = record.corrections
    assert (correction.origin, correction.iou, correction.shown) == ("drawn", None, None)


def test_what_the_model_did_not_find_is_drawn_beside_it():
    shown = prediction(None)
    correction = only(make_task(annotation([region()], parent_prediction=9), predictions=[shown]))
    assert (correction.origin, correction.iou, correction.shown) == ("drawn", 0, None)


def test_a_removed_region_teaches_that_there_is_nothing():
    shown = prediction(LEFT)
    correction = only(make_task(annotation([], parent_prediction=9), predictions=[shown]))
    assert (correction.origin, correction.mask, correction.iou) == ("rejected", None, 0)
    assert correction.shown == Rle.from_mask(LEFT)


def test_a_removed_region_teaches_nothing_where_its_expression_remains_under_another_label():
    shown = prediction(LEFT)
    now = region(LEFT, "new", "target", meta={"text": ["the ship"]})
    correction = only(make_task(annotation([now], parent_prediction=9), predictions=[shown]))
    assert (correction.label, correction.origin, correction.iou) == ("target", "changed", 1)


def test_a_region_that_got_other_words_was_not_rejected():
    shown = prediction(LEFT)
    [was, *_] = shown["result"]
    now = {**was, "meta": {"text": ["the boat"]}}
    correction = only(make_task(annotation([now], parent_prediction=9), predictions=[shown]))
    assert (correction.expression, correction.origin) == ("the boat", "drawn")


def test_an_empty_prediction_that_is_left_alone_is_accepted():
    shown = prediction(None)
    correction = only(make_task(annotation([], parent_prediction=9), predictions=[shown]))
    assert (correction.expression, correction.label) == ("the ship", "ship")
    assert (correction.origin, correction.mask, correction.iou) == ("accepted", None, 1)


def test_an_empty_annotation_beside_no_prediction_says_nothing():
    assert gathered(make_task(annotation([]))).corrections == ()


def test_each_of_several_expressions_is_its_own_correction():
    shown = prediction(LEFT, None, RIGHT, expressions="the ship\nthe car\nthe target")
    kept = [one for one in shown["result"] if "the target" not in one["meta"]["text"]]
    task = make_task(
        annotation(kept, parent_prediction=9), predictions=[shown], expressions="the ship\nthe car\nthe target"
    )
    origins = {one.expression: (one.origin, one.mask is None) for one in gathered(task).corrections}
    assert origins == {
        "the ship": ("accepted", False),
        "the car": ("accepted", True),
        "the target": ("rejected", True),
    }


def test_regions_of_one_expression_are_one_mask():
    correction = only(make_task(annotation([region(LEFT, "a"), region(RIGHT, "b")])))
    assert (mask_in(correction) == (LEFT | RIGHT)).all()


def test_masks_of_another_size_are_lined_up():
    shown = prediction(LEFT)
    twice = np.kron(LEFT, np.ones((2, 2), bool))
    task = make_task(annotation([region(twice, label="ship")], parent_prediction=9), predictions=[shown])
    correction = only(task)
    assert (correction.origin, correction.iou) == ("accepted", 1)
    assert mask_in(correction).shape == (12, 16)
    assert correction.shown == Rle.from_mask(twice)


def test_the_prediction_is_known_by_its_regions_where_the_annotation_does_not_name_it():
    shown, older = prediction(LEFT), {"id": 2, "result": [region(RIGHT, "other")]}
    record = gathered(make_task(annotation(shown["result"]), predictions=[older, shown]))
    assert record.prediction_id == 9


def test_suggestions_of_the_editor_go_by_what_it_says_of_them():
    for origin, expected in [("prediction", "accepted"), ("prediction-changed", "changed"), ("manual", "drawn")]:
        correction = only(make_task(annotation([region(origin=origin)])))
        assert (correction.origin, correction.iou) == (expected, None)


@pytest.mark.parametrize(
    ("result", "expressions", "config", "expected"),
    [
        ([region(meta={"text": ["noted"]}), text("beside", "a", "words"), text("typed")], "own", CONFIG, "beside"),
        ([region(meta={"text": ["noted"]}), text("typed")], "own", CONFIG, "noted"),
        ([region(meta={"text": "noted"})], "own", CONFIG, "noted"),
        ([region(), text("typed")], "own", CONFIG, "typed"),
        ([region()], "own", CONFIG, "own"),
        ([region(label="ship")], "the target\nthe ship", CONFIG, "the ship"),
        ([region(label="ship")], None, BY_LABEL, "ship"),
    ],
)
def test_the_expression_is_the_nearest_that_somebody_said(result: Any, expressions: Any, config: Any, expected: str):
    assert only(make_task(annotation(result), expressions=expressions), config).expression == expected


def test_which_of_several_expressions_a_region_is_of_is_never_guessed():
    record = gathered(make_task(annotation([region()]), expressions="the red one\nthe blue one"))
    assert record.corrections == ()
    assert record.skipped == {"a region does not say which of the task's expressions it is of": 1}


def test_cancelled_annotations_say_nothing_and_drafts_are_not_looked_at():
    task = make_task(annotation([region()], was_cancelled=True))
    assert task_to_corrections(task, 1, CONFIG).annotations == ()
    assert "drafts" not in AnnotatedTask.model_fields


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (["text", None, 3], "a result is not an object"),
        ([region(from_name="old")], "a region is of a control that the labeling config gives no masks to"),
        ([region(to_name=None)], "a region is of a control that the labeling config gives no masks to"),
        ([region(value={"brushlabels": []})], "a region has no label"),
        ([region(value=None)], "a region has no label"),
        ([region(value={"brushlabels": [{}]})], "a region has no label"),
        ([region(value={"brushlabels": ["target"], "rle": [1]})], "a brush region has run lengths that cannot be read"),
        ([region(original_width=10**9)], "a region does not say a possible size of its image"),
        ([region(meta={"text": ["\ud800"]})], "a label or an expression is no text"),
        (
            [region(from_name=[], type="brushlabels")],
            "a region is of a control that the labeling config gives no masks to",
        ),
        ([region(meta={"text": ["a" * 600]})], "an expression is too long"),
    ],
)
def test_what_cannot_be_read_is_counted_and_the_rest_is_kept(result: Any, reason: str):
    record = gathered(make_task(annotation([*result, region(RIGHT, "fine", meta={"text": ["fine"]})])))
    assert list(record.skipped) == [reason]
    assert [one.expression for one in record.corrections] == ["fine"]


@pytest.mark.parametrize(
    "result", [None, {}, "x", 3, [[]], [{"type": []}, {"id": {}}], [{"type": "textarea", "value": 3}]]
)
def test_a_result_that_is_none_crashes_nothing(result: Any):
    assert gathered(make_task(annotation(result))).corrections == ()


def test_half_of_a_mask_is_none():
    broken = region(name="b", value={"brushlabels": ["target"], "rle": [1]})
    shown = prediction(LEFT)
    task = make_task(annotation([region(), broken], parent_prediction=9), predictions=[shown])
    assert gathered(task).corrections == ()


def test_an_annotation_that_did_not_change_stays_as_it_was_decoded():
    shown = prediction(LEFT)
    task = make_task(annotation(shown["result"], parent_prediction=9), predictions=[shown])
    before = task_to_corrections(task, 1, CONFIG)
    without = make_task(annotation([], parent_prediction=None))
    assert task_to_corrections(without, 1, CONFIG, before).annotations == before.annotations


def test_a_prediction_that_was_deleted_meanwhile_is_still_known():
    shown = prediction(LEFT)
    before = task_to_corrections(
        make_task(annotation(shown["result"], parent_prediction=9), predictions=[shown]), 1, CONFIG
    )
    later = annotation([region(LEFT | RIGHT, label="ship")], updated_at="2026-11-25T00:00:00Z")
    record = gathered(make_task(later), before=before)
    assert (record.prediction_id, record.model_version) == (9, "tiny@0")
    [correction] = record.corrections
    assert (correction.origin, correction.iou) == ("changed", pytest.approx(9 / 15))


def test_scenes_are_the_images_unless_the_task_says_more():
    assert task_to_corrections(make_task(), 1, CONFIG).scene == "/data/7.png"
    assert task_to_corrections(make_task(scene="harbour"), 1, CONFIG).scene == "harbour"


def test_boxes_beside_brushes_are_read_too():
    value = {"x": 12.5, "y": 0, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["car"]}
    box = region(from_name="box", type="rectanglelabels", value=value)
    correction = only(make_task(annotation([box]), expressions="the car"))
    assert np.argwhere(mask_in(correction)).tolist() == [[y, x] for y in range(3) for x in (1, 2)]
