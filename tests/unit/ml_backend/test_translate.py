from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface

from ml_backend.brush import decode
from ml_backend.errors import Unaskable
from ml_backend.gesture import Gesture, read_gesture
from ml_backend.label_config import read_label_config
from ml_backend.options import Options
from ml_backend.protocol import Context, Task
from ml_backend.translate import answer_to_prediction, task_to_job, unaskable_to_failure
from tests.factories import OUTPUT, make_answer, make_job
from workers.contract import ASKS_LIMIT, EXPRESSION_LIMIT, Ask, Found, Point, Pointed, PredictJob, Rle, Rules

XML = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image">
<Label value="airplane" predicted_values="jet"/><Label value="ship"/></BrushLabels>
{}</View>"""
FIELD = read_label_config(XML.format('<TextArea name="prompt" toName="image" value="$expression"/>'))
TYPED = read_label_config(XML.format('<TextArea name="prompt" toName="image"/>'))
BARE = read_label_config(XML.format(""))


def task(**data: Any) -> Task:
    return Task(id=7, data={"image": "/data/upload/1/a.png", **data})


def typed(*expressions: str) -> Gesture:
    return Gesture("image", expressions)


def asks(job: PredictJob) -> list[tuple[str, str]]:
    return [(ask.expression, ask.label) for ask in job.asks]


def test_the_task_asks_with_its_own_words_and_gets_the_label_they_name() -> None:
    job = task_to_job(task(expression=" the ship at the pier "), 3, FIELD, "tiny@1")
    assert asks(job) == [("the ship at the pier", "ship")]
    assert (job.task_id, job.project_id, job.model_version) == (7, 3, "tiny@1")
    output = job.asks[0].output
    assert (output.from_name, output.to_name, job.interactive) == ("tag", "image", False)


@pytest.mark.parametrize("value", ["the jet\n\n a ship\r\nthe jet ", ["the jet", "a ship"], ["the jet\na ship", 5]])
def test_several_lines_or_a_list_are_several_expressions_each_asked_once(value: object) -> None:
    assert asks(task_to_job(task(expression=value), 3, FIELD)) == [("the jet", "airplane"), ("a ship", "ship")]


def test_each_label_asks_for_itself_where_the_config_names_no_field() -> None:
    assert asks(task_to_job(task(expression="not read"), 3, BARE)) == [("jet", "airplane"), ("ship", "ship")]
    assert asks(task_to_job(task(), 3, TYPED)) == [("jet", "airplane"), ("ship", "ship")]


def test_what_is_typed_comes_before_what_the_task_says() -> None:
    job = task_to_job(task(expression="the jet"), 3, FIELD, gesture=typed("the red ship"))
    assert asks(job) == [("the red ship", "ship")]
    assert job.interactive


def test_what_is_pointed_at_goes_with_the_words_typed_before_and_the_label_chosen_to_point_with() -> None:
    pointed = Pointed(points=(Point(x=0.5, y=0.5),))
    job = task_to_job(task(), 3, TYPED, gesture=Gesture("image", ("the jet",), pointed, "ship"))
    assert (asks(job), job.asks[0].pointed) == ([("the jet", "ship")], pointed)
    wordless = task_to_job(task(expression="the jet"), 3, FIELD, gesture=Gesture("image", (), pointed, "else"))
    assert asks(wordless) == [("", "airplane")]
    assert job.key != task_to_job(task(), 3, TYPED, gesture=typed("the jet")).key


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({}, '"expression"'),
        ({"expression": "  \n "}, '"expression"'),
        ({"expression": None}, '"expression"'),
        ({"expression": 5}, '"expression"'),
        ({"expression": []}, '"expression"'),
        ({"expression": "x", "image": ""}, '"image"'),
        ({"expression": "x", "image": None}, '"image"'),
        ({"expression": "x", "image": ["a.png"]}, '"image"'),
        ({"expression": "x", "image": "data:" + "a" * 4_000_000}, "import such images as files"),
        ({"expression": "x" * (EXPRESSION_LIMIT + 1)}, f"at most {EXPRESSION_LIMIT}"),
        ({"expression": "\n".join(map(str, range(ASKS_LIMIT + 1)))}, f"at most {ASKS_LIMIT}"),
    ],
)
def test_a_task_that_cannot_be_asked_says_what_it_lacks(data: dict[str, Any], named: str) -> None:
    with pytest.raises(Unaskable) as refused:
        task_to_job(task(**data), 3, FIELD)
    assert named in str(refused.value)
    assert "Task 7" in str(refused.value)


def test_an_empty_prompt_asks_for_nothing() -> None:
    with pytest.raises(Unaskable, match="Nothing is typed"):
        task_to_job(task(expression="the jet"), 3, FIELD, gesture=typed())


PAIR = """<View><Image name="before" value="$a"/><Image name="after" value="$b"/>
<BrushLabels name="tag" toName="before,after"><Label value="ship"/></BrushLabels>
<RectangleLabels name="box" toName="after"><Label value="ship"/><Label value="pier"/></RectangleLabels>{}</View>"""


def pair(**data: Any) -> Task:
    return Task(id=7, data={"a": "/a.png", "b": "/b.png", **data})


def placed(job: PredictJob) -> list[tuple[str, str, str, str]]:
    """Expression, image address, image and control of each ask."""
    return [(ask.expression, job.image_uris[ask.image], ask.output.to_name, ask.output.from_name) for ask in job.asks]


def test_an_expression_is_asked_about_each_image_that_its_text_area_names() -> None:
    both = read_label_config(PAIR.format('<TextArea name="prompt" toName="before,after" value="$words"/>'))
    assert placed(task_to_job(pair(words="the pier"), 3, both)) == [
        ("the pier", "/a.png", "before", "tag"),
        ("the pier", "/b.png", "after", "box"),
    ]
    after = read_label_config(PAIR.format('<TextArea name="prompt" toName="after" value="$words"/>'))
    asked = placed(task_to_job(pair(words="a ship"), 3, after))
    assert asked == [("ship", "/a.png", "before", "tag"), ("a ship", "/b.png", "after", "tag")]


def test_the_field_of_the_extra_parameters_is_about_all_images_and_labels_are_asked_once_for_each() -> None:
    named = read_label_config(PAIR.format(""), Options(expression_field="words"))
    assert [uri for _, uri, _, _ in placed(task_to_job(pair(words="a ship"), 3, named))] == ["/a.png", "/b.png"]
    bare = task_to_job(pair(), 3, read_label_config(PAIR.format("")))
    assert placed(bare) == [
        ("ship", "/a.png", "before", "tag"),
        ("ship", "/b.png", "after", "tag"),
        ("pier", "/b.png", "after", "box"),
    ]


def test_an_image_that_nothing_is_asked_about_is_not_sent_and_need_not_be_there() -> None:
    texts = '<TextArea name="p1" toName="before" value="$x"/><TextArea name="p2" toName="after" value="$y"/>'
    found = read_label_config(PAIR.format(texts))
    job = task_to_job(Task(id=7, data={"b": "/b.png", "x": "", "y": "the pier"}), 3, found)
    assert placed(job) == [("the pier", "/b.png", "after", "box")]
    with pytest.raises(Unaskable, match=r'Task 7 has no image: .* under "a"'):
        task_to_job(Task(id=7, data={"b": "/b.png", "x": "a ship", "y": "the pier"}), 3, found)


def test_what_is_typed_at_one_of_several_images_is_about_that_one() -> None:
    texts = '<TextArea name="p1" toName="before"/><TextArea name="p2" toName="after"/>'
    found = read_label_config(PAIR.format(texts))
    context = Context.model_validate({
        "result": [{"from_name": "p2", "to_name": "after", "value": {"text": ["the pier"]}}]
    })
    job = task_to_job(pair(), 3, found, gesture=read_gesture(context, found))
    assert placed(job) == [("the pier", "/b.png", "after", "box")]
    assert job.image_uris == ("/b.png",)


def test_the_rules_of_cleaning_travel_with_the_job() -> None:
    found = read_label_config(PAIR.format(""), Options(speck_pixels=5))
    assert task_to_job(pair(), 3, found).rules == Rules(speck_pixels=5)
    assert task_to_job(pair(), 3, read_label_config(PAIR.format(""))).rules is None


def test_a_task_that_cannot_be_asked_becomes_a_failure_that_the_annotator_finds() -> None:
    one, two = (
        unaskable_to_failure(task(image="https://x.example/a.png?sig=SECRET"), 3, FIELD, Unaskable(reason))
        for reason in ("no expression", "still no expression")
    )
    assert one.key == two.key
    assert (one.task_id, one.project_id, one.move, one.reason) == (7, 3, "annotator", "no expression")
    assert "SECRET" not in one.image_uri


def test_the_same_question_has_the_same_key_and_another_one_another() -> None:
    first = task_to_job(task(expression="the ship"), 3, FIELD, "tiny@1")
    assert first.key == task_to_job(task(expression=" the ship"), 3, FIELD, "tiny@1").key
    assert first.key != task_to_job(task(expression="the ship"), 3, FIELD, "tiny@2").key
    assert first.key != task_to_job(task(expression="the ship"), 4, FIELD, "tiny@1").key


def test_a_mask_becomes_a_region_that_label_studio_accepts() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:5] = True
    ship = Ask(expression="the ship", label="ship", output=OUTPUT)
    prediction = answer_to_prediction(make_answer(make_job(asks=(ship,)), mask))
    [region] = prediction["result"]
    assert (region["original_width"], region["original_height"], region["image_rotation"]) == (8, 6, 0)
    assert (region["from_name"], region["to_name"], region["type"]) == ("tag", "image", "brushlabels")
    assert (region["origin"], region["score"], region["meta"]) == ("prediction", 0.8, {"text": ["the ship"]})
    assert region["value"]["brushlabels"] == ["ship"]
    assert np.array_equal(decode(region["value"]["rle"], (6, 8)), mask)
    assert (prediction["score"], prediction["model_version"]) == (0.8, "tiny@0")
    assert LabelInterface(XML.format("")).validate_prediction(prediction, return_errors=True) == []


def test_the_same_answer_gives_the_same_region_ids_and_another_question_gives_others() -> None:
    def ids(job: PredictJob) -> list[str]:
        return [region["id"] for region in answer_to_prediction(make_answer(job))["result"]]

    job = make_job(expressions=("a", "b"))
    assert ids(job) == ids(job)
    assert len(set(ids(job) + ids(make_job(expressions=("a", "c"))))) == 4


def test_an_empty_mask_gives_no_region_and_the_lowest_score_is_the_predictions() -> None:
    job = make_job(expressions=("the jet", "a ship"))
    found = tuple(
        Found(expression=ask.expression, label="target", mask=Rle.from_mask(mask), score=score, predicted_iou=0.5)
        for ask, mask, score in zip(job.asks, (np.zeros((6, 8), bool), np.ones((6, 8), bool)), (0.3, 0.9), strict=True)
    )
    prediction = answer_to_prediction(make_answer(job, found=found))
    assert [region["meta"]["text"] for region in prediction["result"]] == [["a ship"]]
    assert prediction["score"] == 0.3
    nothing = answer_to_prediction(make_answer(job, found=()))
    assert (nothing["result"], nothing["score"]) == ([], 0.0)
