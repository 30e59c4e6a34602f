from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml_backend import brush
from ml_backend.errors import Unaskable
from ml_backend.gesture import Gesture, read_gesture
from ml_backend.label_config import read_label_config
from ml_backend.protocol import Context
from workers.contract import Point

CONFIG = read_label_config("""<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image"/>
<BrushLabels name="tag" toName="image"><Label value="ship"/></BrushLabels></View>""")


def drawn(kind: str, labels: tuple[str, ...] = ("ship",), **value: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "from_name": "tool",
        "to_name": "image",
        "original_width": 600,
        "original_height": 400,
        "value": {**value, **({kind: list(labels)} if labels else {})},
    }


def read(*results: dict[str, Any]) -> Gesture:
    return read_gesture(Context.model_validate({"result": list(results)}), CONFIG)


def box(*results: dict[str, Any]) -> list[float] | None:
    pointed = read(*results).pointed
    assert pointed is not None
    return None if pointed.box_xyxy is None else [round(side, 3) for side in pointed.box_xyxy]


def test_texts_are_read_by_the_name_of_their_control() -> None:
    other = {"from_name": "note", "to_name": "image", "type": "textarea", "value": {"text": ["hazy"]}}
    words = {"from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": ["a jet", "a ship"]}}
    assert read(other, words) == Gesture("image", ("a ship",)), "the masks of those before it are already there"
    emptied = words | {"value": {"text": []}}
    assert read(emptied) == Gesture("image")
    with pytest.raises(Unaskable, match='"prompt"'):
        read(other)


def test_points_are_shares_of_the_image_and_know_on_which_side_they_are() -> None:
    gesture = read(
        drawn("keypointlabels", x=25, y=50, width=0.3),
        drawn("keypointlabels", x=75, y=50, width=0.3) | {"is_positive": False},
    )
    assert gesture.pointed is not None
    assert gesture.pointed.points == (Point(x=0.25, y=0.5), Point(x=0.75, y=0.5, inside=False))
    assert (gesture.label, gesture.to_name) == ("ship", "image")


def test_a_rectangle_is_a_box_and_the_newest_of_several_counts() -> None:
    first, second = (drawn("rectanglelabels", x=x, y=20, width=30, height=40, rotation=0) for x in (0, 10))
    assert box(first, second) == [0.1, 0.2, 0.4, 0.6]
    assert read(drawn("rectangle", labels=(), x=10, y=20, width=30, height=40)).label is None


def test_a_turned_rectangle_is_the_box_around_it() -> None:
    # A quarter turn clockwise about the upper left corner, in an image that is not square.
    assert box(drawn("rectanglelabels", x=50, y=25, width=10, height=30, rotation=90)) == [0.3, 0.25, 0.5, 0.4]


def test_what_reaches_beyond_the_edge_is_cut_there() -> None:
    assert box(drawn("rectanglelabels", x=-10, y=90, width=30, height=40)) == [0.0, 0.9, 0.2, 1.0]
    with pytest.raises(Unaskable, match="no extent"):
        read(drawn("rectanglelabels", x=10, y=10, width=0, height=5))


def test_an_ellipse_and_a_stroke_are_boxes_too() -> None:
    assert box(drawn("ellipselabels", x=50, y=50, radiusX=10, radiusY=20)) == [0.4, 0.3, 0.6, 0.7]
    mask = np.zeros((400, 600), bool)
    mask[100:200, 150:300] = True
    assert box(drawn("brushlabels", format="rle", rle=brush.encode(mask))) == [0.25, 0.25, 0.5, 0.5]


@pytest.mark.parametrize("rle", [[], [1, 2, 3], brush.encode(np.zeros((400, 600), bool))])
def test_a_stroke_that_cannot_be_read_is_refused(rle: list[int]) -> None:
    with pytest.raises(Unaskable, match="brush"):
        read(drawn("brushlabels", format="rle", rle=rle))


def test_without_a_text_area_the_line_to_add_is_shown() -> None:
    bare = read_label_config("""<View><Image name="image" value="$image"/>
    <BrushLabels name="tag" toName="image"><Label value="ship"/></BrushLabels></View>""")
    with pytest.raises(Unaskable, match=r'<TextArea name="prompt" toName="image"'):
        read_gesture(Context(), bare)
