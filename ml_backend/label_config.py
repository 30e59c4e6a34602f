"""Labeling XML -> which tags carry image, expression and mask."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ml_backend.errors import UnusableConfig

IMAGE_LINE = '<Image name="image" value="$image"/>'
LABEL_LINE = '<Label value="target"/>'
BRUSH_LINE = f'<BrushLabels name="tag" toName="image">{LABEL_LINE}</BrushLabels>'

OTHER_CONTROLS = ("bitmask", "brush", "ellipse", "keypoint", "magicwand", "polygon", "rectangle", "vector")
"""How the names of Label Studio's other region controls begin."""


@dataclass(frozen=True)
class Label:
    """One label of the mask control."""

    value: str
    """What a region carries: the alias where there is one, else the value."""
    names: tuple[str, ...]
    """What an expression may call it: value, alias and predicted values."""
    expression: str
    """What to ask for where a task brings no words of its own: the first predicted value, else the value."""

    def place_in(self, expression: str) -> tuple[int, int] | None:
        """Look for one of the label's names in an expression, as a word of its own, singular or plural.

        Args:
            expression: What is asked for.

        Returns:
            Where the first name begins and its length below zero, so that the smallest place is the earliest and, at
            the same spot, the longest; None if no name occurs.
        """
        hit = self._pattern.search(expression)
        return (hit.start(), -len(hit.group())) if hit else None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        words = (re.escape(name).replace(r"\ ", r"[\s_-]+") for name in sorted(self.names, key=len, reverse=True))
        return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?:e?s)?(?!\w)", re.IGNORECASE)


@dataclass(frozen=True)
class LabelConfig:
    """The tags of a labeling config that a prediction needs."""

    image_name: str
    image_field: str
    """The key of the task's data that holds the image."""
    control_name: str
    labels: tuple[Label, ...]
    prompt_name: str | None
    """The TextArea that a person types an expression into."""
    expression_field: str | None
    """The key of the task's data that holds the expression."""

    def label_for(self, expression: str) -> str:
        """Choose the label of an expression's mask: the one that it names first, else the config's first.

        Args:
            expression: What is asked for.

        Returns:
            The label as a region carries it.
        """
        named = [(place, label.value) for label in self.labels if (place := label.place_in(expression))]
        return min(named)[1] if named else self.labels[0].value


def read_label_config(xml: str, expression_field: str | None = None) -> LabelConfig:
    """Find the tags in a labeling config.

    Args:
        xml: The config as Label Studio sends it.
        expression_field: The key of the task's data that holds the expression, where the backend's extra parameters
            name one; it wins over the config's own.

    Returns:
        The tags.

    Raises:
        UnusableConfig: If the config is not XML, or has no image or mask control that we can use.
    """
    try:
        tags = list(fromstring(xml).iter())
    except (ParseError, DefusedXmlException, ValueError) as exc:
        raise UnusableConfig(f"The labeling config is not plain XML: {exc}") from exc
    images = _images(tags)
    control = _mask_control(tags)
    image = _image(images, control)
    # A TextArea per region describes what is already drawn.
    texts = [
        tag
        for tag in _named(tags, "textarea")
        if image.get("name") in _targets(tag) and tag.get("perRegion", "").lower() != "true"
    ]
    prompt = _prompt(texts)
    fields = [field for tag in ([prompt] if prompt is not None else []) + texts if (field := _field(tag))]
    return LabelConfig(
        image_name=image.get("name", ""),
        image_field=_image_field(image),
        control_name=control.get("name", ""),
        labels=_labels(control),
        prompt_name=prompt.get("name") if prompt is not None else None,
        expression_field=expression_field or next(iter(fields), None),
    )


def _mask_control(tags: list[Element]) -> Element:
    controls = [tag for tag in _named(tags, "brushlabels") if tag.get("name")]
    if controls:
        return controls[0]
    others = sorted({tag.tag for tag in tags if tag.tag.lower().startswith(OTHER_CONTROLS)} - {"BrushLabels"})
    if others:
        drawn = " and ".join(f"<{name}>" for name in others)
        raise UnusableConfig(
            f"The labeling config draws with {drawn}, but only <BrushLabels> is supported now; "
            f"add a line such as {BRUSH_LINE}"
        )
    raise UnusableConfig(f"The labeling config has no <BrushLabels> with a name; add a line such as {BRUSH_LINE}")


def _images(tags: list[Element]) -> dict[str, Element]:
    images = {tag.get("name", ""): tag for tag in _named(tags, "image") if tag.get("name")}
    if not images:
        raise UnusableConfig(f"The labeling config has no <Image> with a name; add a line such as {IMAGE_LINE}")
    return images


def _image(images: dict[str, Element], control: Element) -> Element:
    for name in _targets(control):
        if name in images:
            return images[name]
    raise UnusableConfig(
        f'The labeling config\'s <BrushLabels name="{control.get("name")}"> is about no <Image>; '
        f'write in it toName="{next(iter(images))}"'
    )


def _image_field(image: Element) -> str:
    field = _field(image)
    if field is None:
        raise UnusableConfig(
            f'The labeling config\'s <Image name="{image.get("name")}"> shows no single field of the task; '
            f"write it like {IMAGE_LINE}"
        )
    return field


def _labels(control: Element) -> tuple[Label, ...]:
    labels = []
    for tag in _named(control.iter(), "label"):
        value, alias = tag.get("value", "").strip(), tag.get("alias", "").strip()
        predicted = [name.strip() for name in tag.get("predicted_values", "").split(",") if name.strip()]
        if value or alias:
            names = tuple(dict.fromkeys(name for name in (value, alias, *predicted) if name))
            labels.append(Label(value=alias or value, names=names, expression=[*predicted, value, alias][0]))
    if not labels:
        raise UnusableConfig(
            f'The labeling config\'s <BrushLabels name="{control.get("name")}"> has no <Label>; '
            f"add one inside it, such as {LABEL_LINE}"
        )
    return tuple(labels)


def _prompt(texts: list[Element]) -> Element | None:
    # Label Studio's own backends take the TextArea whose name begins with "prompt"; smart="false" silences one.
    asking = [tag for tag in texts if tag.get("name") and tag.get("smart", "").lower() != "false"]
    prompts = [tag for tag in asking if tag.get("name", "").lower().startswith("prompt")]
    return next(iter(prompts + asking), None)


def _named(tags: Iterable[Element], name: str) -> list[Element]:
    # The editor does not mind the case of a tag's name.
    return [tag for tag in tags if tag.tag.lower() == name]


def _targets(tag: Element) -> list[str]:
    return [name.strip() for name in tag.get("toName", "").split(",") if name.strip()]


def _field(tag: Element) -> str | None:
    hit = re.fullmatch(r"\$([^\s$/{}]+)", tag.get("value", "").strip())
    return hit.group(1) if hit else None
