from __future__ import annotations

import pytest

from ml_backend.errors import UnusableConfig
from ml_backend.label_config import BRUSH_LINE, IMAGE_LINE, LABEL_LINE, read_label_config

NESTED = """
<View>
  <Style>.x {color: red}</Style> <!-- a comment -->
  <Header value="$expression"/>
  <View className="left"><Image name="scene" value="$image_url" zoom="true"/></View>
  <View>
    <Choices name="quality" toName="scene"><Choice value="good"/></Choices>
    <BrushLabels name="mask" toName="scene">
      <Label value="Air plane" alias="airplane" predicted_values="jet, aircraft"/>
      <View><Label value="Ship" background="#fff"/></View>
    </BrushLabels>
    <TextArea name="note" toName="scene" smart="false" value="$note"/>
    <TextArea name="prompt" toName="scene" value="$expression" maxSubmissions="1"/>
    <TextArea name="ref" toName="scene" perRegion="true" value="$ref"/>
  </View>
</View>
"""


def config(body: str) -> str:
    return f"<View>{body}</View>"


def test_the_tags_are_found_however_deep_they_are() -> None:
    found = read_label_config(NESTED)
    assert (found.image_name, found.image_field, found.control_name) == ("scene", "image_url", "mask")
    assert (found.prompt_name, found.expression_field) == ("prompt", "expression")


def test_a_region_carries_the_alias_and_a_label_asks_for_its_first_predicted_value() -> None:
    airplane, ship = read_label_config(NESTED).labels
    assert (airplane.value, airplane.expression) == ("airplane", "jet")
    assert (ship.value, ship.expression) == ("Ship", "Ship")


@pytest.mark.parametrize(
    ("expression", "label"),
    [
        ("the ship at the pier", "Ship"),
        ("all SHIPS", "Ship"),
        ("an air plane", "airplane"),
        ("two air-planes", "airplane"),
        ("the jet beside the ship", "airplane"),
        ("the ship beside the jet", "Ship"),
        ("the shipyard", "airplane"),
        ("das Schiff", "airplane"),
    ],
)
def test_the_label_is_the_one_that_the_expression_names_first(expression: str, label: str) -> None:
    assert read_label_config(NESTED).label_for(expression) == label


def test_the_longer_of_two_labels_at_the_same_place_wins() -> None:
    found = read_label_config(
        config(
            f'{IMAGE_LINE}<BrushLabels name="t" toName="image"><Label value="storage"/><Label value="storage tank"/>'
            "</BrushLabels>"
        )
    )
    assert found.label_for("the storage tank") == "storage tank"


def test_extra_parameters_name_the_expression_field_before_the_config_does() -> None:
    assert read_label_config(NESTED, "caption").expression_field == "caption"


def test_without_a_text_area_there_is_nothing_to_type_into() -> None:
    found = read_label_config(config(IMAGE_LINE + BRUSH_LINE))
    assert (found.prompt_name, found.expression_field) == (None, None)


def test_the_first_text_area_is_the_prompt_where_none_is_called_so() -> None:
    found = read_label_config(config(f'{IMAGE_LINE}{BRUSH_LINE}<TextArea name="words" toName="image"/>'))
    assert (found.prompt_name, found.expression_field) == ("words", None)


def test_a_text_area_about_something_else_is_not_the_prompt() -> None:
    found = read_label_config(
        config(f'{IMAGE_LINE}<Text name="t" value="$t"/>{BRUSH_LINE}<TextArea name="prompt" toName="t" value="$x"/>')
    )
    assert (found.prompt_name, found.expression_field) == (None, None)


def test_of_two_images_the_one_that_the_brush_is_about_counts() -> None:
    brush = '<BrushLabels name="t" toName="after"><Label value="x"/></BrushLabels>'
    found = read_label_config(config(f'<Image name="before" value="$a"/><Image name="after" value="$b"/>{brush}'))
    assert (found.image_name, found.image_field) == ("after", "b")


POLYGONS = '<PolygonLabels name="p" toName="image"><Label value="x"/></PolygonLabels>'


@pytest.mark.parametrize(
    ("xml", "named", "shown"),
    [
        ("<View>", "plain XML", ""),
        ("", "plain XML", ""),
        ('<!DOCTYPE x [<!ENTITY a "aa">]><View>&a;</View>', "plain XML", ""),
        (config(""), "no <Image>", IMAGE_LINE),
        (config(IMAGE_LINE), "<BrushLabels>", BRUSH_LINE),
        (config(IMAGE_LINE + POLYGONS), "only <BrushLabels> is supported now", BRUSH_LINE),
        (config(IMAGE_LINE + POLYGONS), "<PolygonLabels>", BRUSH_LINE),
        (config(IMAGE_LINE + '<Brush name="b" toName="image"/>'), "<Brush>", BRUSH_LINE),
        (config(BRUSH_LINE), "no <Image>", IMAGE_LINE),
        (config('<Image name="photo" value="$p"/>' + BRUSH_LINE), "about no <Image>", 'toName="photo"'),
        (config('<Image name="image" valueList="$images"/>' + BRUSH_LINE), "no single field", IMAGE_LINE),
        (config('<Image name="image" value="https://x/$p"/>' + BRUSH_LINE), "no single field", IMAGE_LINE),
        (config(IMAGE_LINE + '<BrushLabels name="t" toName="image"/>'), "no <Label>", LABEL_LINE),
        (config(IMAGE_LINE + '<BrushLabels toName="image"><Label value="x"/></BrushLabels>'), "a name", BRUSH_LINE),
    ],
)
def test_an_unusable_config_is_told_what_is_missing_and_the_line_to_add(xml: str, named: str, shown: str) -> None:
    with pytest.raises(UnusableConfig) as refused:
        read_label_config(xml)
    assert named in str(refused.value)
    assert shown in str(refused.value)
    assert refused.value.field == "label_config"
