from __future__ import annotations

import pytest

from ml_backend.errors import UnusableConfig
from ml_backend.label_config import BRUSH_LINE, IMAGE_LINE, LABEL_LINE, NO_OPTIONS, ImageTag, read_label_config
from ml_backend.options import Options
from workers.contract import IMAGES_LIMIT

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


def only_image(xml: str, options: Options = NO_OPTIONS) -> ImageTag:
    [image] = read_label_config(xml, options).images
    return image


def drawn_by(image: ImageTag) -> dict[str, str]:
    """Which control draws each label."""
    return {target.label.value: target.output.from_name for target in image.targets}


def test_the_tags_are_found_however_deep_they_are() -> None:
    found = only_image(NESTED)
    assert (found.name, found.field) == ("scene", "image_url")
    assert drawn_by(found) == {"airplane": "mask", "Ship": "mask"}
    assert {target.output.words_name for target in found.targets} == {"ref"}
    assert (found.prompt_name, found.expression_field) == ("prompt", "expression")


def test_a_region_carries_the_alias_and_a_label_asks_for_its_first_predicted_value() -> None:
    airplane, ship = (target.label for target in only_image(NESTED).targets)
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
    assert only_image(NESTED).target_for(expression).label.value == label


def test_the_longer_of_two_labels_at_the_same_place_wins() -> None:
    found = only_image(
        config(
            f'{IMAGE_LINE}<BrushLabels name="t" toName="image"><Label value="storage"/><Label value="storage tank"/>'
            "</BrushLabels>"
        )
    )
    assert found.target_for("the storage tank").label.value == "storage tank"


def test_extra_parameters_name_the_expression_field_before_the_config_does() -> None:
    assert only_image(NESTED, Options(expression_field="caption")).expression_field == "caption"


def test_without_a_text_area_there_is_nothing_to_type_into() -> None:
    found = only_image(config(IMAGE_LINE + BRUSH_LINE))
    assert (found.prompt_name, found.expression_field) == (None, None)


def test_the_first_text_area_is_the_prompt_where_none_is_called_so() -> None:
    found = only_image(config(f'{IMAGE_LINE}{BRUSH_LINE}<TextArea name="words" toName="image"/>'))
    assert (found.prompt_name, found.expression_field) == ("words", None)


def test_a_text_area_about_something_else_is_not_the_prompt() -> None:
    found = only_image(
        config(f'{IMAGE_LINE}<Text name="t" value="$t"/>{BRUSH_LINE}<TextArea name="prompt" toName="t" value="$x"/>')
    )
    assert (found.prompt_name, found.expression_field) == (None, None)


def test_of_two_images_the_one_that_the_brush_is_about_counts() -> None:
    brush = '<BrushLabels name="t" toName="after"><Label value="x"/></BrushLabels>'
    found = only_image(config(f'<Image name="before" value="$a"/><Image name="after" value="$b"/>{brush}'))
    assert (found.name, found.field) == ("after", "b")


SEVERAL = config("""
  <Image name="before" value="$a"/><Image name="after" value="$b"/>
  <BrushLabels name="tag" toName="after"><Label value="flooded"/><Label value="burnt"/></BrushLabels>
  <RectangleLabels name="box" toName="before,after"><Label value="house"/><Label value="burnt"/></RectangleLabels>
  <PolygonLabels name="ring" toName="before"><Label value="field"/></PolygonLabels>
  <KeyPointLabels name="point" toName="before" smart="true"><Label value="house"/></KeyPointLabels>
  <BitmaskLabels name="finger" toName="before" smartOnly="true"><Label value="only pointed at"/></BitmaskLabels>
  <TextArea name="prompt" toName="after" value="$now"/>
  <TextArea name="prompt_before" toName="before" value="$then"/>
  <TextArea name="ref" toName="after" perRegion="true" whenTagName="tag"/>
""")


def test_each_image_has_its_own_controls_words_and_prompt() -> None:
    before, after = read_label_config(SEVERAL).images
    assert (before.field, before.prompt_name, before.expression_field) == ("a", "prompt_before", "then")
    assert (after.field, after.prompt_name, after.expression_field) == ("b", "prompt", "now")
    assert drawn_by(before) == {"house": "box", "burnt": "box", "field": "ring"}
    assert drawn_by(after) == {"flooded": "tag", "burnt": "tag", "house": "box"}
    words = {target.output.from_name: target.output.words_name for target in after.targets}
    assert words == {"tag": "ref", "box": None}


def test_a_control_is_told_its_type_its_image_and_whether_parts_are_regions_of_their_own() -> None:
    before, after = read_label_config(SEVERAL).images
    outputs = {target.output.from_name: target.output for target in (*before.targets, *after.targets)}
    assert {name: (output.type, output.instances) for name, output in outputs.items()} == {
        "tag": ("brushlabels", False),
        "box": ("rectanglelabels", True),
        "ring": ("polygonlabels", True),
    }
    assert {target.output.to_name for target in before.targets} == {"before"}


def test_the_extra_parameters_choose_controls_and_how_they_draw() -> None:
    before, after = read_label_config(SEVERAL, Options(control="box", instances=False, rotated=True)).images
    assert drawn_by(before) == drawn_by(after) == {"house": "box", "burnt": "box"}
    assert not before.targets[0].output.instances
    assert before.targets[0].output.rotated
    [only] = read_label_config(SEVERAL, Options(control=("tag",))).images
    assert only.name == "after"
    _, after = read_label_config(SEVERAL, Options(control=("box", "tag"))).images
    assert drawn_by(after)["burnt"] == "box"


def test_a_control_that_is_not_there_cannot_be_chosen() -> None:
    with pytest.raises(UnusableConfig, match=r'"point".*tag, box, ring'):
        read_label_config(SEVERAL, Options(control="point"))


def test_what_is_about_one_of_several_images_leaves_the_others_out() -> None:
    found = read_label_config(SEVERAL)
    assert [image.name for image in found.about({"before", "something"}).images] == ["before"]
    assert found.about({"before"}).prompt_name == "prompt_before"
    assert found.about(set()) == found


def test_more_images_than_a_job_carries_are_refused() -> None:
    images = "".join(f'<Image name="i{n}" value="$i{n}"/>' for n in range(IMAGES_LIMIT + 1))
    names = ",".join(f"i{n}" for n in range(IMAGES_LIMIT + 1))
    with pytest.raises(UnusableConfig, match=f"at most {IMAGES_LIMIT}"):
        read_label_config(config(f'{images}<BrushLabels name="t" toName="{names}"><Label value="x"/></BrushLabels>'))


ELLIPSES = '<EllipseLabels name="p" toName="image"><Label value="x"/></EllipseLabels>'
SMART_ONLY = '<RectangleLabels name="p" toName="image" smartOnly="true"><Label value="x"/></RectangleLabels>'


@pytest.mark.parametrize(
    ("xml", "named", "shown"),
    [
        ("<View>", "plain XML", ""),
        ("", "plain XML", ""),
        ('<!DOCTYPE x [<!ENTITY a "aa">]><View>&a;</View>', "plain XML", ""),
        (config(""), "no <Image>", IMAGE_LINE),
        (config(IMAGE_LINE), "<BrushLabels>", BRUSH_LINE),
        (config(IMAGE_LINE + ELLIPSES), "draws with <EllipseLabels>", BRUSH_LINE),
        (config(IMAGE_LINE + SMART_ONLY), "without smartOnly", BRUSH_LINE),
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
