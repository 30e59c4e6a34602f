"""What a person just did in the editor: typed words, or pointed with a smart tool."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ml_backend import brush
from ml_backend.errors import Unaskable
from ml_backend.label_config import LabelConfig
from ml_backend.protocol import Context, Drawn
from workers.contract import POINTS_LIMIT, Point, Pointed


@dataclass(frozen=True)
class Gesture:
    """Words or a place, about one image."""

    to_name: str
    """The image's name in the labeling config."""
    expressions: tuple[str, ...] = ()
    """What was typed last, or before pointing."""
    pointed: Pointed | None = None
    label: str | None = None
    """The label that was chosen to point with."""


def read_gesture(context: Context, config: LabelConfig) -> Gesture:
    """Read what Label Studio sends when a person waits: what the text area holds, or what smart tools drew, never both.

    Args:
        context: What the editor sent.
        config: The tags of the project's labeling config.

    Returns:
        The gesture; without expressions where the text area was emptied.

    Raises:
        Unaskable: If it is neither.
    """
    shapes = [drawn for drawn in context.result if drawn.type in _BOXES or drawn.type in _POINTS]
    if shapes:
        return _pointing(shapes)
    # What is typed at one of several images is about that one.
    config = config.about({drawn.to_name for drawn in context.result})
    if config.prompt_name is None:
        line = f'<TextArea name="prompt" toName="{config.image_name}" maxSubmissions="1"/>'
        raise Unaskable(f"The labeling config has no <TextArea> to type into; add a line such as {line}")
    # Every control about the whole image is sent along, hence the name.
    texts = [drawn for drawn in context.result if drawn.from_name == config.prompt_name]
    if not texts:
        raise Unaskable(f'Nothing is typed in the text area "{config.prompt_name}".')
    # Of several texts only the newest is asked: the masks of those before it are already there.
    text = texts[-1].value.text
    newest = text if isinstance(text, str) else "".join(text[-1:])
    return Gesture(texts[-1].to_name, expressions_in(newest))


def expressions_in(value: object) -> tuple[str, ...]:
    """Take expressions from a text of one a line, or from a list of such texts.

    Args:
        value: The text, or whatever stands in its place.

    Returns:
        The expressions; what is said twice is asked once.
    """
    parts = value if isinstance(value, list) else [value]
    lines = [line.strip() for part in parts if isinstance(part, str) for line in part.splitlines()]
    return tuple(dict.fromkeys(filter(None, lines)))


def _pointing(shapes: list[Drawn]) -> Gesture:
    # The tools of one control are sent together: all points count, of several boxes the newest.
    points = tuple(_point(drawn) for drawn in shapes if drawn.type in _POINTS)[-POINTS_LIMIT:]
    boxes = [drawn for drawn in shapes if drawn.type in _BOXES]
    box = _BOXES[boxes[-1].type](boxes[-1]) if boxes else None
    newest = shapes[-1]
    label = newest.value.labels[0] if newest.value.labels else None
    return Gesture(newest.to_name, pointed=Pointed(points=points, box_xyxy=box), label=label)


def _point(drawn: Drawn) -> Point:
    return Point(x=_share(drawn.value.x), y=_share(drawn.value.y), inside=drawn.is_positive)


def _rectangle(drawn: Drawn) -> tuple[float, float, float, float]:
    value = drawn.value
    w, h = drawn.original_width or 1, drawn.original_height or 1
    corners = np.array([(0, 0), (value.width, 0), (0, value.height), (value.width, value.height)]) * (w, h)
    return _around(_turned(corners, value.rotation) / (w, h) + (value.x, value.y))


def _ellipse(drawn: Drawn) -> tuple[float, float, float, float]:
    value = drawn.value
    w, h = drawn.original_width or 1, drawn.original_height or 1
    angles = np.linspace(0, 2 * np.pi, 64)
    edge = np.stack([value.radius_x * np.cos(angles), value.radius_y * np.sin(angles)], axis=1) * (w, h)
    return _around(_turned(edge, value.rotation) / (w, h) + (value.x, value.y))


def _stroke(drawn: Drawn) -> tuple[float, float, float, float]:
    try:
        mask = brush.decode(drawn.value.rle, (drawn.original_height, drawn.original_width))
    except ValueError as exc:
        raise Unaskable(f"What was drawn with the brush cannot be read: {exc}.") from exc
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise Unaskable("Nothing is drawn with the brush.")
    edges = np.array([(columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)])
    return _around(100 * edges / (drawn.original_width, drawn.original_height))


_POINTS = frozenset({"keypoint", "keypointlabels"})
_BOXES: dict[str, Callable[[Drawn], tuple[float, float, float, float]]] = {
    "rectangle": _rectangle,
    "rectanglelabels": _rectangle,
    "ellipse": _ellipse,
    "ellipselabels": _ellipse,
    "brush": _stroke,
    "brushlabels": _stroke,
}
"""What is drawn to say "in here", and the box around it."""


def _turned(places: np.ndarray, degrees: float) -> np.ndarray:
    turn = math.radians(degrees)
    rotation = np.array([(math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))])
    turned: np.ndarray = places @ rotation  # clockwise, as y points down
    return turned


def _around(places: np.ndarray) -> tuple[float, float, float, float]:
    left, top = map(_share, places.min(axis=0))
    right, bottom = map(_share, places.max(axis=0))
    if left >= right or top >= bottom:
        raise Unaskable("What was drawn has no extent inside of the image.")
    return left, top, right, bottom


def _share(percent: float) -> float:
    return min(1.0, max(0.0, float(percent) / 100))
