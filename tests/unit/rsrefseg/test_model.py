import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from segment_anything.modeling.transformer import Attention

from rsrefseg.attention import PromptAttention
from rsrefseg.model import RSRefSeg
from rsrefseg.position import fourier_position
from rsrefseg.tokenizer import Tokenizer

EXPRESSIONS = ["the ship", "the small white airplane on the far left", "all storage tanks"]


@pytest.fixture
def token_ids(small):
    tokenizer = Tokenizer(small.text.positions)
    return [tokenizer(expression) for expression in EXPRESSIONS]


@pytest.fixture
def pixels(small):
    return torch.rand(3, small.image_size, small.image_size, generator=torch.Generator().manual_seed(1))


def test_masks_come_out_at_a_quarter_of_the_input_size(model, pixels, token_ids, small):
    logits = model.low_res_logits(pixels, token_ids)
    assert logits.shape == (3, small.image_size // 4, small.image_size // 4)


def test_an_expression_gets_the_same_mask_alone_and_in_any_company(model, pixels, token_ids):
    model, pixels = model.double(), pixels.double()
    together = model.low_res_logits(pixels, token_ids)
    alone = torch.cat([model.low_res_logits(pixels, [ids]) for ids in token_ids])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)


def test_blocks_that_refine_maps_change_nothing_before_they_learn(model, pixels, token_ids, small):
    refining = RSRefSeg(replace(small, image=replace(small.image, refined=(1, 2)))).eval()
    refining.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(
        refining.low_res_logits(pixels, token_ids), model.low_res_logits(pixels, token_ids), atol=1e-5, rtol=0
    )


def test_images_in_one_batch_do_not_see_each_other(model, pixels, token_ids):
    model, pixels = model.double(), pixels.double()
    other = pixels.flip(2)
    both = model.encode_image(torch.stack([pixels, other]))
    text = model.encode_text([token_ids[1], token_ids[1]])
    batched = model.decode(both, text, torch.tensor([1, 0])).low_res_logits
    torch.testing.assert_close(batched[0], model.low_res_logits(other, [token_ids[1]])[0], atol=1e-9, rtol=0)
    torch.testing.assert_close(batched[1], model.low_res_logits(pixels, [token_ids[1]])[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_masks_drawn_a_few_at_a_time_are_the_same(model, pixels, token_ids, at_once):
    model = model.double()
    both = model.encode_image(torch.stack([pixels, pixels.flip(2)]).double())
    text, about = model.encode_text(token_ids), torch.tensor([1, 0, 1])
    together = model.decode(both, text, about)
    for part, expected in zip(model.decode(both, text, about, at_once), together, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("found", "seen"), [(9.0, -9.0), (-9.0, 9.0), (9.0, 9.0)])
def test_a_mask_leans_to_where_words_are_found_and_seen_both(model, pixels, token_ids, found, seen):
    with torch.no_grad():
        for parameter in model.prompter.finest.parameters():
            parameter.zero_()
        model.image_encoder.pyramid.show4.bias.zero_()
        model.image_encoder.pyramid.show4.bias[0] = 1.0
        model.image_encoder.pyramid.show4.weight[0] = 0.0
        model.prompter.finest.bias[0] = seen
        model.prompter.finest_gain.fill_(0.0)
        image, text = model.encode_image(pixels[None]), model.encode_text(token_ids[:1])
        about = torch.zeros(1, dtype=torch.long)
        prompts = model.prompter(image, text, about, model.frequencies)
        prompts = prompts._replace(activation=torch.full_like(prompts.activation, found))
        position = fourier_position(model.frequencies, image.sam.shape[2:])
        without, _ = model._draw(image, about, prompts, position, said=True)
        model.prompter.finest_gain.fill_(1.0)
        leaning, _ = model._draw(image, about, prompts, position, said=True)
    both = -math.log(math.exp(-found) + math.exp(-seen))
    torch.testing.assert_close(leaning - without, torch.full_like(without, both), atol=1e-3, rtol=0)


def test_words_and_pixels_both_move_the_mask(model, pixels, token_ids):
    first, second, _ = model.low_res_logits(pixels, token_ids)
    assert (first - second).abs().max() > 1e-3
    assert (first - model.low_res_logits(pixels.flip(1), token_ids[:1])[0]).abs().max() > 1e-3


def test_every_weight_that_trains_gets_a_gradient(small, pixels, token_ids):
    torch.manual_seed(0)
    model = RSRefSeg(small).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    images = torch.stack([pixels, pixels.flip(1)])
    decoded = model.decode(model.encode_image(images), model.encode_text(token_ids), torch.tensor([0, 1, 1]))
    (decoded.low_res_logits.square().mean() + decoded.predicted_iou.square().mean()).backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # SAM's own prompts (points, boxes, no mask) wait for clicks; words do not use them.
    assert {name for name in idle if "point" not in name and "no_mask" not in name} == set()


def test_the_decoder_keeps_the_epsilon_it_was_published_with(model):
    layer = model.mask_decoder.transformer.layers[0]
    assert {norm.eps for norm in (layer.norm1, layer.norm2, layer.norm3, layer.norm4)} == {1e-6}
    assert model.mask_decoder.transformer.norm_final_attn.eps == 1e-5


def test_positions_agree_with_segment_anything(model, small):
    theirs = model.prompt_encoder.get_dense_pe()
    ours = fourier_position(model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix, (8, 8))
    torch.testing.assert_close(ours, theirs)


def test_drawing_agrees_with_segment_anythings_own_decoder(model, pixels, token_ids):
    image, text = model.encode_image(pixels[None]), model.encode_text(token_ids)
    about = torch.zeros(3, dtype=torch.long)
    matrix = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    image = image._replace(eighth=image.eighth[:, :0], quarter=image.quarter[:, :0])  # theirs knows of none
    prompts = model.prompter(image, text, about, matrix)
    coarse = torch.nn.functional.interpolate(prompts.activation[:, None], size=(32, 32), mode="bilinear")
    theirs = deepcopy(model.mask_decoder)
    for module in theirs.modules():
        if isinstance(module, PromptAttention):
            module.__class__ = Attention
    masks, iou = theirs(
        image_embeddings=image.sam,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=prompts.sparse,
        dense_prompt_embeddings=model.prompt_encoder.mask_downscaling(coarse),
        multimask_output=False,
    )
    assert model.mask_decoder.transformer.final_attn_token_to_image.__class__ is PromptAttention
    decoded = model.decode(image, text, about)
    torch.testing.assert_close(decoded.low_res_logits, masks[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoded.predicted_iou, iou[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["traits", "eighth", "quarter"])
def test_each_finer_part_of_the_image_moves_the_mask(model, pixels, token_ids, part):
    image, text = model.encode_image(pixels[None]), model.encode_text(token_ids)
    about = torch.zeros(3, dtype=torch.long)
    other = image._replace(**{part: getattr(image, part).roll(1, dims=3)})
    moved = model.decode(other, text, about).low_res_logits - model.decode(image, text, about).low_res_logits
    assert moved.abs().max() > 1e-4
