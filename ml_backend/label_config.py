"""Labeling XML -> which tags carry images, expressions and masks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ml_backend.errors import UnusableConfig
from ml_backend.options import Options
from workers.contract import IMAGES_LIMIT, Output, OutputType, Rules

IMAGE_LINE = '<Image name="image" value="$image"/>'
LABEL_LINE = '<Label value="target"/>'
BRUSH_LINE = f'<BrushLabels name="tag" toName="image">{LABEL_LINE}</BrushLabels>'

MASK_CONTROLS = {
    "bitmasklabels": "<BitmaskLabels>",
    "brushlabels": "<BrushLabels>",
    "polygonlabels": "<PolygonLabels>",
    "rectanglelabels": "<RectangleLabels>",
}
"""Controls that masks go to."""

EACH_PART_ALONE = frozenset({"polygonlabels", "rectanglelabels"})
"""Of them, those whose regions hold one part of a mask."""

NO_OPTIONS = Options()

OTHER_CONTROLS = ("bitmask", "brush", "ellipse", "keypoint", "magicwand", "polygon", "rectangle", "vector")
"""How the names of all region controls of Label Studio begin."""


@dataclass(frozen=True)
class Label:
    """One label of a mask control."""

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
class Target:
    """A label of one image, and the control that draws it there."""

    label: Label
    output: Output


@dataclass(frozen=True)
class ImageTag:
    """An image that masks can be drawn on."""

    name: str
    field: str
    """The key of the task's data that holds the image."""
    targets: tuple[Target, ...]
    """What can be drawn on it, each label once."""
    prompt_name: str | None
    """The TextArea that a person types an expression into."""
    expression_field: str | None
    """The key of the task's data that holds the expression."""

    def target_for(self, expression: str) -> Target:
        """Choose where an expression's mask goes: the label that it names first, else the config's first.

        Args:
            expression: What is asked for.

        Returns:
            The label and its control.
        """
        named = [(place, n) for n, target in enumerate(self.targets) if (place := target.label.place_in(expression))]
        return self.targets[min(named)[1] if named else 0]


@dataclass(frozen=True)
class LabelConfig:
    """The tags of a labeling config that a prediction needs, as the project's options have them."""

    images: tuple[ImageTag, ...]
    """At least one, in the order of the config."""
    rules: Rules | None = None
    """How masks are cleaned; None where the project leaves that to us."""

    @property
    def image_name(self) -> str:
        """The first image's name."""
        return self.images[0].name

    @property
    def prompt_name(self) -> str | None:
        """The TextArea that a person types into, the first of several."""
        return next((image.prompt_name for image in self.images if image.prompt_name), None)

    def about(self, names: Collection[str]) -> LabelConfig:
        """Leave out the images that something is not about.

        Args:
            names: The names of those that it is about.

        Returns:
            The config with these images; with all of them where none has such a name.
        """
        images = tuple(image for image in self.images if image.name in names)
        return replace(self, images=images or self.images)


def read_label_config(xml: str, options: Options = NO_OPTIONS) -> LabelConfig:
    """Find the tags in a labeling config.

    Args:
        xml: The config as Label Studio sends it.
        options: What the backend's extra parameters say; it wins over what the config itself says.

    Returns:
        The tags.

    Raises:
        UnusableConfig: If the config is not XML, or has no image or mask control that we can use.
    """
    try:
        tags = list(fromstring(xml).iter())
    except (ParseError, DefusedXmlException, ValueError) as exc:
        raise UnusableConfig(f"The labeling config is not plain XML: {exc}") from exc
    known = _images(tags)
    controls = _mask_controls(tags, options)
    drawn_on = [name for name in known if any(name in _targets(control) for control in controls)]
    if not drawn_on:
        raise UnusableConfig(
            f"The labeling config's {_shown(controls[0])} is about no <Image>; "
            f'write in it toName="{next(iter(known))}"'
        )
    if len(drawn_on) > IMAGES_LIMIT:
        raise UnusableConfig(
            f"The labeling config draws on {len(drawn_on)} images; at most {IMAGES_LIMIT} go into one task"
        )
    texts = [tag for tag in _named(tags, "textarea") if tag.get("name")]
    images = tuple(_image(known[name], controls, texts, options) for name in drawn_on)
    return LabelConfig(images, options.rules)


def _image(image: Element, controls: list[Element], texts: list[Element], options: Options) -> ImageTag:
    name = image.get("name", "")
    about = [tag for tag in texts if name in _targets(tag)]
    # A TextArea per region describes what is already drawn.
    whole = [tag for tag in about if not _says(tag, "perRegion", "true")]
    prompt = _prompt(whole)
    fields = [field for tag in ([prompt] if prompt is not None else []) + whole if (field := _field(tag))]
    notes = [tag for tag in about if _says(tag, "perRegion", "true") and not _says(tag, "smart", "false")]
    targets: dict[str, Target] = {}
    for control in controls:
        if name in _targets(control):
            output = _output(control, name, notes, options)
            for label in _labels(control):
                targets.setdefault(label.value, Target(label, output))
    return ImageTag(
        name=name,
        field=_image_field(image),
        targets=tuple(targets.values()),
        prompt_name=prompt.get("name") if prompt is not None else None,
        expression_field=options.expression_field or next(iter(fields), None),
    )


def _output(control: Element, image_name: str, notes: list[Element], options: Options) -> Output:
    name, kind = control.get("name", ""), cast(OutputType, control.tag.lower())
    words = (tag.get("name") for tag in notes if name in (_names(tag, "whenTagName") or [name]))
    return Output(
        from_name=name,
        to_name=image_name,
        type=kind,
        words_name=next(words, None),
        instances=kind in EACH_PART_ALONE if options.instances is None else options.instances,
        rotated=options.rotated and kind == "rectanglelabels",
    )


def _mask_controls(tags: list[Element], options: Options) -> list[Element]:
    # What is "smart only" is a tool to point with.
    controls = [
        tag
        for tag in tags
        if tag.tag.lower() in MASK_CONTROLS and tag.get("name") and not _says(tag, "smartOnly", "true")
    ]
    if not controls:
        raise UnusableConfig(f"{_what_is_there(tags)}; add a line such as {BRUSH_LINE}")
    if not options.control:
        return controls
    by_name = {control.get("name", ""): control for control in controls}
    for name in options.control:
        if name not in by_name:
            raise UnusableConfig(
                f'The extra parameters choose the control "{name}", but masks can only go to '
                f'{", ".join(by_name)}; write one of these as the option "control"'
            )
    return [by_name[name] for name in options.control]


def _what_is_there(tags: list[Element]) -> str:
    others = sorted({tag.tag for tag in tags if tag.tag.lower().startswith(OTHER_CONTROLS)})
    wanted = " or ".join(MASK_CONTROLS.values())
    if not others:
        return f"The labeling config has no {wanted}"
    drawn = " and ".join(f"<{name}>" for name in others)
    return f'The labeling config draws with {drawn}, but masks go to {wanted} with a name and without smartOnly="true"'


def _images(tags: list[Element]) -> dict[str, Element]:
    images = {tag.get("name", ""): tag for tag in _named(tags, "image") if tag.get("name")}
    if not images:
        raise UnusableConfig(f"The labeling config has no <Image> with a name; add a line such as {IMAGE_LINE}")
    return images


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
            f"The labeling config's {_shown(control)} has no <Label>; add one inside it, such as {LABEL_LINE}"
        )
    return tuple(labels)


def _prompt(texts: list[Element]) -> Element | None:
    # Label Studio's own backends take the TextArea whose name begins with "prompt"; smart="false" silences one.
    asking = [tag for tag in texts if not _says(tag, "smart", "false")]
    prompts = [tag for tag in asking if tag.get("name", "").lower().startswith("prompt")]
    return next(iter(prompts + asking), None)


def _named(tags: Iterable[Element], name: str) -> list[Element]:
    # The editor does not mind the case of a tag's name.
    return [tag for tag in tags if tag.tag.lower() == name]


def _shown(control: Element) -> str:
    return f'<{control.tag} name="{control.get("name")}">'


def _says(tag: Element, attribute: str, value: str) -> bool:
    return tag.get(attribute, "").strip().lower() == value


def _targets(tag: Element) -> list[str]:
    return _names(tag, "toName")


def _names(tag: Element, attribute: str) -> list[str]:
    return [name.strip() for name in tag.get(attribute, "").split(",") if name.strip()]


def _field(tag: Element) -> str | None:
    hit = re.fullmatch(r"\$([^\s$/{}]+)", tag.get("value", "").strip())
    return hit.group(1) if hit else None
