"""Our graph against the published one, number by number; and each known trap, sprung, is noticed."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from rsrefseg import Predictor, checkpoint
from rsrefseg.convert import convert
from tests.unit.rsrefseg.published import small_published

IDS = [torch.tensor([5, 9, 30, 1]), torch.tensor([7, 1]), torch.tensor([3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 1])]


@pytest.fixture(scope="module")
def published():
    return small_published()


@pytest.fixture(scope="module")
def converted(published, small_b, tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstream")
    torch.save(published.state_dict(), folder / "upstream.pth")
    convert(folder / "upstream.pth", small_b, folder / "ours", foundation_folder=folder)
    return folder / "ours"


@pytest.fixture
def ours(converted):
    return checkpoint.load(converted).double()


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(3, 208, 208, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture(scope="module")
def expected(published, pixels):
    return logits_of(published.double(), pixels)


@torch.no_grad()
def logits_of(published, pixels):
    return torch.stack([published.low_res_logits(pixels, ids) for ids in IDS])


@torch.no_grad()
def difference(model, pixels, expected, ids=IDS):
    return (model.low_res_logits(pixels, ids) - expected).abs().max().item()


def test_double_precision_agrees_to_the_ninth_digit(ours, pixels, expected):
    assert 1 < expected.std() < 2
    assert difference(ours, pixels, expected) < 1e-9


def test_single_precision_agrees_to_the_third_digit(converted, published, pixels):
    ours = checkpoint.load(converted)
    expected = logits_of(published.float(), pixels.float())
    published.double()
    assert difference(ours, pixels.float(), expected) < 5e-4


def test_merged_adapters_agree_as_well(ours, pixels, expected):
    ours.merge_adapters()
    assert not [name for name in ours.state_dict() if "lora" in name]
    assert difference(ours, pixels, expected) < 1e-9


def test_a_batch_of_unequal_expressions_equals_each_alone(ours, pixels, expected):
    for ids, one in zip(IDS, expected, strict=True):
        assert difference(ours, pixels, one[None], [ids]) < 1e-9


def test_several_images_in_one_call_equal_each_alone(ours, pixels, expected):
    both = ours.encode_image(torch.stack([pixels.flip(1), pixels]))
    with torch.no_grad():
        together = ours.decode(both, ours.encode_text([IDS[0], *IDS]), torch.tensor([0, 1, 1, 1])).low_res_logits
    assert (together[1:] - expected).abs().max() < 1e-9
    assert (together[0] - expected[0]).abs().max() > 1e-3


def test_bfloat16_runs_through(converted, pixels, expected):
    ours = checkpoint.load(converted).bfloat16()
    with torch.no_grad():
        logits = ours.low_res_logits(pixels.bfloat16(), IDS)
    assert logits.dtype == torch.bfloat16
    assert ((logits > 0) == (expected > 0)).float().mean() > 0.9


def exact_gelu(module):
    for part in module.modules():
        if isinstance(part, nn.GELU):
            part.approximate = "none"


def tanh_gelu(module):
    for part in module.modules():
        if isinstance(part, nn.GELU):
            part.approximate = "tanh"


def packaged_epsilon(model):
    for layer in model.mask_decoder.transformer.layers:
        for norm in (layer.norm1, layer.norm2, layer.norm3, layer.norm4):
            norm.eps = 1e-5


def other_position_matrix(model):
    model.image_encoder.frequencies = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix


def adapters_dropped(model):
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            parameter.data.zero_()


def adapters_of_the_wrong_scale(model):
    for part in model.modules():
        if hasattr(part, "lora_a"):
            part.scale /= 2


def float32_constants(model):
    model.prompter.logit_bias.data = model.prompter.logit_bias.data + 1e-7


def batch_statistics(model):
    model.prompter.train()


def unwindowed_attention(model):
    model.image_encoder.sam.blocks[0].window_size = 0


TRAPS = {
    "exact GELU in SigLIP's image tower": lambda m: exact_gelu(m.image_encoder.siglip),
    "exact GELU in SigLIP's text tower": lambda m: exact_gelu(m.text_encoder),
    "tanh GELU in SAM": lambda m: tanh_gelu(m.image_encoder.sam),
    "tanh GELU in SAM's upscaling": lambda m: tanh_gelu(m.mask_decoder),
    "packaged epsilon in the mask decoder": packaged_epsilon,
    "the prompt encoder's position matrix": other_position_matrix,
    "adapters dropped": adapters_dropped,
    "alpha of half its size": adapters_of_the_wrong_scale,
    "the image's own statistics in batch norm": batch_statistics,
    "a constant rounded to float32": float32_constants,
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_sprung_trap_is_noticed(ours, pixels, expected, trap):
    TRAPS[trap](ours)
    assert difference(ours, pixels, expected) > 1e-9


@pytest.mark.parametrize("padding", [1, 3])
def test_padded_expressions_are_noticed(ours, pixels, expected, padding):
    padded = [torch.cat([ids, torch.ones(padding, dtype=torch.long)]) for ids in IDS[:2]]
    assert difference(ours, pixels, expected[:2], padded) > 1e-3


def test_an_averaged_clip_image_is_noticed(ours, pixels, expected, monkeypatch):
    plain = functional.interpolate
    monkeypatch.setattr(
        functional, "interpolate", lambda *a, **k: plain(*a, **{**k, "antialias": k.get("antialias") is not None})
    )
    assert difference(ours, pixels, expected) > 1e-3


def test_prompts_of_tanh_gelu_are_noticed(ours, pixels, expected, monkeypatch):
    plain = functional.gelu
    monkeypatch.setattr(functional, "gelu", lambda x, **_: plain(x, approximate="tanh"))
    assert difference(ours, pixels, expected) > 1e-9


def test_segment_anythings_own_positions_would_not_do(ours):
    with pytest.raises(RuntimeError):
        ours.prompt_encoder.get_dense_pe()


# Above the logits: how an image of any size comes in and a mask of that size goes out.


@pytest.fixture(scope="module")
def scene():
    return np.random.default_rng(3).integers(0, 256, (311, 427, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected_logits(published, scene):
    square = cv2.resize(scene, (208, 208), interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(square).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        low = published.float().low_res_logits(pixels, IDS[0])[None, None]
    published.double()
    return low


@pytest.fixture
def predictor(converted):
    model = checkpoint.load(converted)
    model.merge_adapters()
    return Predictor(model, "b@00000000", tokenizer=lambda _: IDS[0])


def drawn(low, *sizes):
    for size in sizes:
        low = functional.interpolate(low, size=size, mode="bilinear", align_corners=False)
    return (torch.sigmoid(low) > 0.5)[0, 0].numpy()


def test_masks_agree(predictor, scene, expected_logits):
    [found] = predictor.segment(scene, ["the ship"])
    assert found.mask.shape == (311, 427)
    assert np.mean(found.mask != drawn(expected_logits, (208, 208), (311, 427))) < 1e-4


def test_one_step_to_the_images_size_would_be_noticed(predictor, scene, expected_logits):
    [found] = predictor.segment(scene, ["the ship"])
    assert np.mean(found.mask != drawn(expected_logits, (311, 427))) > 1e-3


def test_an_averaged_image_would_be_noticed(predictor, scene, expected_logits):
    predictor.model.preset = replace(predictor.model.preset, antialias=True)
    [found] = predictor.segment(scene, ["the ship"])
    assert np.mean(found.mask != drawn(expected_logits, (208, 208), (311, 427))) > 1e-2
