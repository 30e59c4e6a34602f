import json
from dataclasses import replace

import open_clip
import pytest
import torch
from segment_anything import sam_model_registry
from torch import nn

from rsrefseg.errors import UnknownPreset
from rsrefseg.layouts import asked_for, rsrefseg_of_upstream, sam_of_segment_anything, siglip_of_open_clip
from rsrefseg.lora import is_adapter
from rsrefseg.model import RSRefSeg
from rsrefseg.presets import PRESETS, TINY, B, L, Preset
from tests.unit.rsrefseg.published import published_on_meta

TOTAL = {"b": (984_281_186, 16_649_520, 1_759), "l": (1_206_824_802, 20_585_776, 2_023)}
PARTS = {
    "sam": {"b": 89_671_168, "l": 308_278_528},
    "siglip vision": {"b": 428_225_600, "l": 428_225_600},
    "siglip text": {"b": 449_734_898, "l": 449_734_898},
    "prompt encoder": {"b": 6_476, "l": 6_476},
    "mask decoder": {"b": 4_058_340, "l": 4_058_340},
    "prompter_down_channel": {"b": 885_248, "l": 885_248},
    "prompter_down_spatial": {"b": 1_246_464, "l": 1_246_464},
    "sam lora": {"b": 2_416_640, "l": 6_352_896},
    "siglip vision lora": {"b": 4_018_176, "l": 4_018_176},
    "siglip text lora": {"b": 4_018_176, "l": 4_018_176},
}
PREFIXES = {
    "image_encoder.sam.": "sam",
    "image_encoder.frequencies": "sam",
    "image_encoder.siglip.": "siglip vision",
    "text_encoder.": "siglip text",
    "prompter.logit_": "siglip text",
    "prompt_encoder.": "prompt encoder",
    "mask_decoder.": "mask decoder",
    "prompter.prompter_down_channel.": "prompter_down_channel",
    "prompter.prompter_down_spatial.": "prompter_down_spatial",
}
TRAINED = {"prompt encoder", "mask decoder", "prompter_down_channel", "prompter_down_spatial"}


def on_meta(preset: Preset) -> RSRefSeg:
    with torch.device("meta"):
        return RSRefSeg(preset)


@pytest.fixture(scope="module", params=["b", "l"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return on_meta(PRESETS[name])


@pytest.fixture(scope="module")
def published(name):
    return published_on_meta(name)


def part_of(parameter: str) -> str:
    [part] = [part for prefix, part in PREFIXES.items() if parameter.startswith(prefix)]
    return f"{part} lora" if is_adapter(parameter) else part


def count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


def test_every_part_has_the_published_number_of_parameters(model, name):
    counted = dict.fromkeys(PARTS, 0)
    for parameter, value in model.named_parameters():
        counted[part_of(parameter)] += value.numel()
    assert counted == {part: numbers[name] for part, numbers in PARTS.items()}


def test_the_totals_are_the_published_ones(model, name):
    everything, trained, _ = TOTAL[name]
    assert count(model.parameters()) == everything
    assert count(parameter for parameter in model.parameters() if parameter.requires_grad) == trained


def test_adapters_prompter_and_decoder_train_and_nothing_else(model):
    for parameter, value in model.named_parameters():
        assert value.requires_grad == (is_adapter(parameter) or part_of(parameter) in TRAINED), parameter


def test_the_graph_on_transformers_has_the_same_numbers(published, name):
    counted = count(published.parameters()), count(p for p in published.parameters() if p.requires_grad)
    assert (*counted, len(published.state_dict())) == TOTAL[name]


def test_every_published_name_has_its_place_and_every_place_its_shape(published, model, name):
    theirs, ours = published.state_dict(), model.state_dict()
    layout = rsrefseg_of_upstream(PRESETS[name])
    assert asked_for(layout) == set(theirs)
    shapes = {key: source.join(*(theirs[other] for other in source.names)).shape for key, source in layout.items()}
    assert shapes == {key: value.shape for key, value in ours.items()}


def test_siglip_is_open_clips_but_for_its_gelu():
    config = open_clip.get_model_config("ViT-SO400M-14-SigLIP-384")
    with torch.device("meta"):
        theirs = open_clip.CustomTextCLIP(**{k: v for k, v in config.items() if k != "custom_text"}).state_dict()
    model = on_meta(B)
    layout, ours = siglip_of_open_clip(B), model.state_dict()
    assert asked_for(layout) == set(theirs)
    for key, source in layout.items():
        assert source.join(*(theirs[other] for other in source.names)).shape == ours[key].shape
    for tower in (model.image_encoder.siglip, model.text_encoder.tower):
        assert {part.approximate for part in tower.modules() if isinstance(part, nn.GELU)} == {"tanh"}


def test_sam_is_segment_anythings(model, name):
    with torch.device("meta"):
        theirs = sam_model_registry[f"vit_{name}"]()
    layout, ours = sam_of_segment_anything(model.state_dict()), model.state_dict()
    assert asked_for(layout) == set(theirs.state_dict())
    for key, source in layout.items():
        assert theirs.state_dict()[source.names[0]].shape == ours[key].shape
    for one, other in zip(theirs.image_encoder.blocks, model.image_encoder.sam.blocks, strict=True):
        assert one.window_size == other.window_size
    exact = [part.approximate for part in model.image_encoder.sam.modules() if isinstance(part, nn.GELU)]
    assert set(exact) == {"none"}


def test_the_text_tower_has_as_many_positions_as_siglip():
    assert B.text.positions == L.text.positions == 64


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_survives_json(preset):
    assert Preset.from_dict(json.loads(json.dumps(preset.as_dict()))) == preset


def test_a_model_of_before_has_no_blocks_that_refine_its_maps():
    values = TINY.as_dict()
    del values["image"]["refined"]
    before = Preset.from_dict(values)
    assert before == replace(TINY, image=replace(TINY.image, refined=(0, 0)))
    names = RSRefSeg(before).state_dict().keys()
    assert set(RSRefSeg(TINY).state_dict()) - set(names) == {
        f"image_encoder.pyramid.{block}.{part}.{name}"
        for block in ("refine8.0", "refine4.0", "refine4.1")
        for part in ("first", "second")
        for name in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")
    }


def test_a_tower_of_unknown_kind_is_refused():
    values = B.as_dict()
    values["text"]["kind"] = "Llama"
    with pytest.raises(UnknownPreset, match="no tower of kind 'Llama'"):
        Preset.from_dict(values)


def test_a_field_too_many_in_a_tower_is_named():
    values = B.as_dict()
    values["image"]["sam"]["colour"] = "red"
    with pytest.raises(UnknownPreset, match="fields of SamVit differ: colour"):
        Preset.from_dict(values)
