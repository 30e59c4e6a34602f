from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn
from torch.nn import functional
from transformers.models.siglip.modeling_siglip import SiglipModel

from rsrefseg import Predictor, checkpoint, foundation
from rsrefseg.cli import main
from rsrefseg.errors import BadCheckpoint, MissingWeights, UnknownPreset
from rsrefseg.layouts import siglip_of_open_clip
from rsrefseg.lora import is_adapter
from rsrefseg.model import RSRefSeg
from rsrefseg.presets import TINY, B, Lora
from tests.unit.rsrefseg.published import siglip_config

IDS = [torch.tensor([5, 9, 30, 1])]


def random_weights(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(4)
    norm = partial(nn.LayerNorm, eps=1e-6)
    numbers = {"embed_dim": 24, "depth": 3, "num_heads": 2, "window_size": 5, "global_attn_indexes": (1,)}
    encoder = ImageEncoderViT(img_size=208, out_chans=32, norm_layer=norm, use_rel_pos=True, **numbers)
    decoder = MaskDecoder(transformer_dim=32, transformer=TwoWayTransformer(2, 32, 8, 48), num_multimask_outputs=3)
    return random_weights(Sam(encoder, PromptEncoder(32, (13, 13), (208, 208), 16), decoder))


@pytest.fixture(scope="module")
def siglip():
    torch.manual_seed(5)
    return random_weights(SiglipModel(siglip_config(36, 3, 3, 70, image_size=104, vocab_size=50, positions=12)))


@pytest.fixture(scope="module")
def folder(sam, siglip, tmp_path_factory):
    """Foundation weights of the small size, as their authors would have published them."""
    folder = tmp_path_factory.mktemp("foundation")
    torch.save(sam.state_dict(), folder / foundation.SAM_B.path)
    (folder / foundation.SIGLIP.path).parent.mkdir()
    save_file(siglip.state_dict(), folder / foundation.SIGLIP.path)
    (folder / foundation.VOCABULARY.path).write_bytes(b"")
    return folder


@pytest.fixture
def model(small_b, folder):
    torch.manual_seed(6)
    return foundation.load(small_b, folder)


@pytest.fixture
def pixels():
    return torch.rand(3, 208, 208, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_towers_compute_what_their_authors_compute(model, sam, siglip, pixels):
    image = model.encode_image(pixels[None])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs = sam.image_encoder((pixels[None] - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(image.sam, theirs, atol=1e-4, rtol=1e-4)
    small = functional.interpolate(2 * pixels[None] - 1, size=(104, 104), mode="bilinear", align_corners=False)
    cells = siglip.vision_model(small).last_hidden_state
    torch.testing.assert_close(image.clip.flatten(2).transpose(1, 2), cells, atol=1e-4, rtol=1e-4)
    text, words = model.encode_text(IDS), siglip.text_model(IDS[0][None])
    torch.testing.assert_close(text.tokens, words.last_hidden_state, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(text.pooled, words.pooler_output, atol=1e-4, rtol=1e-4)
    assert model.prompter.logit_scale.item() == siglip.logit_scale.item()
    assert model.prompter.logit_bias.item() == siglip.logit_bias.item()
    assert torch.equal(model.frequencies, sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)


def test_what_is_not_published_starts_afresh(model):
    state = model.state_dict()
    assert all(not value.any() for name, value in state.items() if name.endswith("lora_b"))
    assert all(value.any() for name, value in state.items() if name.endswith("lora_a"))
    assert state["prompter.prompter_down_channel.bn.running_var"].eq(1).all()
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert {value.device.type for value in [*model.buffers(), *model.parameters()]} == {"cpu"}


def test_a_step_of_training_reaches_what_trains_and_nothing_else(model, pixels):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_()
    model.train().low_res_logits(pixels, IDS).square().mean().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    unreached = {name for name, parameter in model.named_parameters() if parameter.requires_grad} - reached
    # SAM's clicks and spare masks, SigLIP's head and the second position matrix: published, trainable, unused.
    unused = ("point", "no_mask", "attn_pool", "pe_layer", "iou_prediction_head")
    assert {name for name in unreached if not any(word in name for word in unused)} == {
        f"mask_decoder.output_hypernetworks_mlps.{i}.layers.{j}.{part}"
        for i in (1, 2, 3)
        for j in (0, 1, 2)
        for part in ("weight", "bias")
    }


def test_open_clips_layout_of_siglip_is_read_as_well(model, small_b, folder, tmp_path):
    state, layout = model.state_dict(), siglip_of_open_clip(small_b)
    (tmp_path / foundation.SAM_B.path).write_bytes((folder / foundation.SAM_B.path).read_bytes())
    save_file(
        {source.names[0]: state[ours].contiguous() for ours, source in layout.items()},
        tmp_path / "open_clip_model.safetensors",
    )
    (tmp_path / "spiece.model").write_bytes(b"")
    other = foundation.load(small_b, tmp_path)
    for name in layout:
        assert torch.equal(other.state_dict()[name], state[name]), name


def test_files_that_are_missing_are_named_with_origin_size_and_command(tmp_path):
    (tmp_path / foundation.SAM_B.path).write_bytes(b"")
    with pytest.raises(MissingWeights) as refused:
        foundation.load(B, tmp_path)
    said = str(refused.value)
    assert "siglip-so400m-patch14-384/model.safetensors  3.5 GB  from https://huggingface.co/google/siglip" in said
    assert "spiece.model  0.8 MB" in said
    assert "sam_vit" not in said
    assert f"rsrefseg weights fetch --preset b --to {tmp_path}" in said
    assert "--from DIR" in said


def test_asking_for_a_full_size_by_name_says_everything_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MissingWeights) as refused:
        Predictor.from_preset("l")
    said = str(refused.value)
    assert "--checkpoint DIR" in said
    assert "sam_vit_l_0b3195.pth  1.2 GB  from https://dl.fbaipublicfiles.com/segment_anything/" in said
    assert f"Missing in {tmp_path}/.local/share/rsrefseg/foundation" in said


def test_tiny_is_built_on_nothing(tmp_path):
    with pytest.raises(UnknownPreset, match="those that are: b, l"):
        foundation.load(TINY, tmp_path)


def test_a_sam_of_the_other_size_lists_its_names(small_b, folder, sam, tmp_path):
    for file in (foundation.SIGLIP, foundation.VOCABULARY):
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_bytes((folder / file.path).read_bytes())
    state = {**sam.state_dict(), "image_encoder.blocks.3.norm1.weight": torch.zeros(24)}
    torch.save(state, tmp_path / foundation.SAM_B.path)
    with pytest.raises(BadCheckpoint, match=r"0 missing; 1 unknown: image_encoder\.blocks\.3\.norm1\.weight"):
        foundation.load(small_b, tmp_path)


def test_damaged_siglip_weights_are_named(small_b, folder, tmp_path):
    (tmp_path / foundation.SAM_B.path).write_bytes((folder / foundation.SAM_B.path).read_bytes())
    (tmp_path / "spiece.model").write_bytes(b"")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(BadCheckpoint, match=r"open_clip_model\.safetensors is damaged"):
        foundation.load(small_b, tmp_path)


@pytest.fixture
def trained(model):
    """As if trained: everything that trains is another, the running statistics too."""
    with torch.no_grad():
        for name in model.learnt_names():
            value = model.state_dict()[name]
            value.copy_(value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value + 7)
            if "running_var" in name:
                value.abs_()
    return model.eval()


@torch.no_grad()
def test_adapters_alone_are_small_and_bring_back_the_same_masks(trained, folder, pixels, tmp_path):
    checkpoint.save(trained, tmp_path / "adapters", "card", half=False, adapters_only=True)
    checkpoint.save(trained, tmp_path / "whole", "card", half=False)
    whole = checkpoint.load(tmp_path / "whole").low_res_logits(pixels, IDS)
    alone = checkpoint.load(tmp_path / "adapters", folder).low_res_logits(pixels, IDS)
    torch.testing.assert_close(alone, whole, atol=0, rtol=0)
    torch.testing.assert_close(alone, trained.low_res_logits(pixels, IDS), atol=1e-5, rtol=0)


def test_adapters_of_preset_b_take_a_few_tens_of_megabytes():
    with torch.device("meta"):
        model = RSRefSeg(B)
    learnt = model.learnt_names()
    numbers = sum(value.numel() for name, value in model.state_dict().items() if name in learnt)
    assert 2 * numbers < 40e6


@torch.no_grad()
def test_adapters_are_swapped_over_one_foundation(trained, small_b, folder, pixels, tmp_path):
    checkpoint.save(trained, tmp_path / "adapters", "card", half=False, adapters_only=True)
    other = foundation.load(small_b, folder).eval()
    before = other.low_res_logits(pixels, IDS)
    checkpoint.load_adapters(other, tmp_path / "adapters")
    after = other.low_res_logits(pixels, IDS)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, trained.low_res_logits(pixels, IDS), atol=1e-5, rtol=0)


def test_adapters_of_another_size_are_refused(trained, small_b, folder, tmp_path):
    checkpoint.save(trained, tmp_path / "adapters", "card", adapters_only=True)
    other = foundation.load(replace(small_b, lora=Lora(rank=2)), folder)
    with pytest.raises(BadCheckpoint, match="does not hold adapters alone for this model"):
        checkpoint.load_adapters(other, tmp_path / "adapters")


def test_a_whole_checkpoint_is_not_taken_for_adapters(trained, tmp_path):
    checkpoint.save(trained, tmp_path / "whole", "card")
    with pytest.raises(BadCheckpoint, match="does not hold adapters alone"):
        checkpoint.load_adapters(trained, tmp_path / "whole")


def test_adapters_without_their_foundation_say_what_is_missing(trained, tmp_path):
    checkpoint.save(trained, tmp_path / "adapters", "card", adapters_only=True)
    with pytest.raises(MissingWeights, match="sam_vit_b"):
        Predictor.from_checkpoint(tmp_path / "adapters", foundation=tmp_path)


def test_a_merged_model_has_no_adapters_to_save(trained, tmp_path):
    trained.merge_adapters()
    with pytest.raises(BadCheckpoint, match="saved whole"):
        checkpoint.save(trained, tmp_path, "card", adapters_only=True)
    checkpoint.save(trained, tmp_path, "card")
    assert not [name for name in checkpoint.load(tmp_path).state_dict() if is_adapter(name)]


def test_a_checkpoint_of_a_full_size_is_asked_in_words(trained, words, image, tmp_path):
    checkpoint.save(trained, tmp_path, "card", half=False)
    (tmp_path / "spiece.model").write_bytes(words.read_bytes())
    predictor = Predictor.from_checkpoint(tmp_path)
    assert predictor.version.startswith("b@")
    assert predictor.model.preset.lora is None, "adapters are merged for inference"
    found = predictor.segment(image, ["the Ship, at the pier!", "the ship at the pier", "white tanks"])
    assert found[0].mask.shape == image.shape[:2]
    assert np.array_equal(found[0].mask, found[1].mask)


def test_words_of_another_model_are_refused(trained, words, small_b, tmp_path):
    wider = replace(small_b, text=replace(small_b.text, vocab_size=60))
    with torch.device("meta"):
        other = RSRefSeg(wider)
    checkpoint.save(other.to_empty(device="cpu"), tmp_path, "card")
    (tmp_path / "spiece.model").write_bytes(words.read_bytes())
    with pytest.raises(BadCheckpoint, match="50 pieces, the text tower knows 60"):
        Predictor.from_checkpoint(tmp_path)


def test_the_command_line_names_what_is_missing(trained, folder, tmp_path):
    checkpoint.save(trained, tmp_path / "adapters", "card", adapters_only=True)
    from rsrefseg.pictures import write_image

    write_image(tmp_path / "scene.png", np.zeros((20, 20, 3), np.uint8))
    options = ["--checkpoint", str(tmp_path / "adapters"), "--foundation", str(tmp_path)]
    result = CliRunner().invoke(main, ["segment", str(tmp_path / "scene.png"), "the ship", *options])
    assert result.exit_code == 1
    assert "rsrefseg weights fetch --preset b" in result.output
    assert "Traceback" not in result.output
