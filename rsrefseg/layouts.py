"""Where each of our tensors lies in the files that others publish.

A layout is a table from our names to theirs: `Layout[our name] = Source(their names, how to join them)`. Whatever of
theirs no row asks for is unknown, whatever a row asks for in vain is missing; nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from rsrefseg.presets import PairedVits, Preset, SiglipText

_NORM = ("weight", "bias")
_BATCH_NORM = (*_NORM, "running_mean", "running_var", "num_batches_tracked")


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _rows(*tensors: Tensor) -> Tensor:
    return torch.cat(tensors)


def _first_third(tensor: Tensor) -> Tensor:
    return tensor.tensor_split(3)[0]


def _other_thirds(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.tensor_split(3)[1:])


def _in_a_batch(tensor: Tensor) -> Tensor:
    return tensor[None]


def _scalar(tensor: Tensor) -> Tensor:
    return tensor.reshape(())


@dataclass(frozen=True)
class Source:
    """Where one of our tensors comes from."""

    names: tuple[str, ...]
    join: Callable[..., Tensor] = _same


Layout = dict[str, Source]


def asked_for(layout: Layout) -> set[str]:
    """Collect every name that a layout reads.

    Args:
        layout: Ours to theirs.

    Returns:
        Their names.
    """
    return {name for source in layout.values() for name in source.names}


def siglip_of_open_clip(preset: Preset) -> Layout:
    """Find SigLIP in open_clip's file of ViT-SO400M-14-SigLIP-384.

    Args:
        preset: With SigLIP's towers.

    Returns:
        Both towers, logit scale and bias.
    """
    layout: Layout = {}
    for ours in siglip_of_transformers(preset):
        theirs = ours.removeprefix("prompter.").replace("attn.in_proj.", "attn.in_proj_")
        theirs = theirs.replace("image_encoder.siglip.", "visual.trunk.").replace("text_encoder.tower.", "text.")
        layout[ours] = Source((theirs,), _scalar if theirs in {"logit_scale", "logit_bias"} else _same)
    return layout


def siglip_of_transformers(preset: Preset) -> Layout:
    """Find SigLIP in the original file of google/siglip-so400m-patch14-384.

    Args:
        preset: With SigLIP's towers.

    Returns:
        Both towers, logit scale and bias.
    """
    vision = _siglip_vision(preset, "vision_model.", adapted=False)
    return {**vision, **_siglip_text(preset, "text_model.", "", adapted=False)}


def sam_of_segment_anything(names: Iterable[str]) -> Layout:
    """Find SAM in its official file, whose names are those of the package that we build it from.

    Args:
        names: Of our model's state dict.

    Returns:
        Image encoder, prompt encoder and mask decoder.
    """
    layout: Layout = {}
    for ours in names:
        if ours.startswith(("prompt_encoder.", "mask_decoder.")):
            layout[ours] = Source((ours,))
        elif ours.startswith("image_encoder.sam.") and not ours.endswith(("lora_a", "lora_b")):
            layout[ours] = Source((ours.replace(".sam.", "."),))
    layout["image_encoder.frequencies"] = Source(("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",))
    return layout


def rsrefseg_of_upstream(preset: Preset) -> Layout:
    """Find everything in a checkpoint of KyanChen/RSRefSeg: transformers' names, its encoders wrapped by peft.

    Args:
        preset: "b", "l" or one of their shape.

    Returns:
        The whole state dict.

    Source:
        KyanChen/RSRefSeg rsris/models/models.py @ c20e056.
    """
    return {
        **_sam_image_encoder(preset, "backbone.base_model.model."),
        **_siglip_vision(preset, "clip_vision_encoder.base_model.model.model.", adapted=True),
        **_siglip_text(
            preset, "clip_text_encoder.base_model.model.model.", "clip_text_encoder.base_model.model.", adapted=True
        ),
        **_prompt_encoder("sam_prompt_encoder.model."),
        **_mask_decoder(preset, "sam_mask_decoder.model."),
        **_prompter(),
    }


def _copies(pairs: Iterable[tuple[str, str]], suffixes: Iterable[str] = ("weight", "bias")) -> Layout:
    return {f"{ours}.{suffix}": Source((f"{theirs}.{suffix}",)) for ours, theirs in pairs for suffix in suffixes}


def _layer(ours: str, *theirs: str, adapted: bool, bias: bool = True) -> Layout:
    # A layer of theirs, or several that are rows of one of ours; peft moves what it wraps one step down.
    join = _rows if len(theirs) > 1 else _same
    base = ".base_layer" if adapted else ""
    parts = {"weight": f"{base}.weight", **({"bias": f"{base}.bias"} if bias else {})}
    if adapted:
        parts |= {"lora_a": ".lora_A.default.weight", "lora_b": ".lora_B.default.weight"}
    return {f"{ours}.{part}": Source(tuple(name + suffix for name in theirs), join) for part, suffix in parts.items()}


def _sam_image_encoder(preset: Preset, prefix: str) -> Layout:
    ours, theirs = "image_encoder.sam.", f"{prefix}model."
    layout = {
        "image_encoder.frequencies": Source((f"{prefix}shared_image_embedding.positional_embedding",)),
        f"{ours}pos_embed": Source((f"{theirs}pos_embed",)),
        **_copies([(f"{ours}patch_embed.proj", f"{theirs}patch_embed.projection")]),
        **_layer(f"{ours}neck.0", f"{theirs}neck.conv1", adapted=True, bias=False),
        **_copies([(f"{ours}neck.1", f"{theirs}neck.layer_norm1")], _NORM),
        **_layer(f"{ours}neck.2", f"{theirs}neck.conv2", adapted=True, bias=False),
        **_copies([(f"{ours}neck.3", f"{theirs}neck.layer_norm2")], _NORM),
    }
    for number in range(_paired(preset).sam.layers):
        block, layer = f"{ours}blocks.{number}.", f"{theirs}layers.{number}."
        layout |= _copies([(f"{block}norm{i}", f"{layer}layer_norm{i}") for i in (1, 2)])
        for name in ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"):
            layout |= _layer(block + name, layer + name, adapted=True)
        for name in ("attn.rel_pos_h", "attn.rel_pos_w"):
            layout[block + name] = Source((layer + name,))
    return layout


def _siglip_vision(preset: Preset, prefix: str, *, adapted: bool) -> Layout:
    ours = "image_encoder.siglip."
    embeddings = f"{prefix}embeddings."
    layout = {
        **_copies([(f"{ours}patch_embed.proj", f"{embeddings}patch_embedding")]),
        f"{ours}pos_embed": Source((f"{embeddings}position_embedding.weight",), _in_a_batch),
        **_copies([(f"{ours}norm", f"{prefix}post_layernorm")]),
    }
    for number in range(_paired(preset).siglip.layers):
        block, layer = f"{ours}blocks.{number}.", f"{prefix}encoder.layers.{number}."
        layout |= _siglip_attention(f"{block}attn.qkv", f"{block}attn.proj", layer, adapted=adapted)
        pairs = [("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")]
        layout |= _copies([(block + one, layer + other) for one, other in pairs])
    pool, head = f"{ours}attn_pool.", f"{prefix}head."
    layout[f"{pool}latent"] = Source((f"{head}probe",))
    for part in ("weight", "bias"):
        layout[f"{pool}q.{part}"] = Source((f"{head}attention.in_proj_{part}",), _first_third)
        layout[f"{pool}kv.{part}"] = Source((f"{head}attention.in_proj_{part}",), _other_thirds)
    layout |= _layer(f"{pool}proj", f"{head}attention.out_proj", adapted=adapted)
    pairs = [("norm", "layernorm"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")]
    return layout | _copies([(pool + one, head + other) for one, other in pairs])


def _siglip_text(preset: Preset, prefix: str, scale_prefix: str, *, adapted: bool) -> Layout:
    assert isinstance(preset.text, SiglipText)
    ours = "text_encoder.tower."
    layout = {
        f"{ours}token_embedding.weight": Source((f"{prefix}embeddings.token_embedding.weight",)),
        f"{ours}positional_embedding": Source((f"{prefix}embeddings.position_embedding.weight",)),
        **_copies([(f"{ours}ln_final", f"{prefix}final_layer_norm")]),
        **_layer(f"{ours}text_projection", f"{prefix}head", adapted=adapted),
        "prompter.logit_scale": Source((f"{scale_prefix}logit_scale",), _scalar),
        "prompter.logit_bias": Source((f"{scale_prefix}logit_bias",), _scalar),
    }
    for number in range(preset.text.layers):
        block, layer = f"{ours}transformer.resblocks.{number}.", f"{prefix}encoder.layers.{number}."
        layout |= _siglip_attention(f"{block}attn.in_proj", f"{block}attn.out_proj", layer, adapted=adapted)
        pairs = [("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")]
        layout |= _copies([(block + one, layer + other) for one, other in pairs])
    return layout


def _siglip_attention(packed: str, out: str, layer: str, *, adapted: bool) -> Layout:
    # Adapters of query, key and value stay three; the merge adds each to its own rows.
    q, k, v = (f"{layer}self_attn.{name}_proj" for name in "qkv")
    return _layer(packed, q, k, v, adapted=adapted) | _layer(out, f"{layer}self_attn.out_proj", adapted=adapted)


def _prompt_encoder(prefix: str) -> Layout:
    ours = "prompt_encoder."
    masks = [("0", "conv1"), ("1", "layer_norm1"), ("3", "conv2"), ("4", "layer_norm2"), ("6", "conv3")]
    points = [(f"point_embeddings.{i}", f"point_embed.{i}") for i in range(4)]
    return {
        f"{ours}pe_layer.positional_encoding_gaussian_matrix": Source((
            f"{prefix}shared_embedding.positional_embedding",
        )),
        **_copies([(f"{ours}mask_downscaling.{one}", f"{prefix}mask_embed.{other}") for one, other in masks]),
        **_copies(
            [
                (ours + one, prefix + other)
                for one, other in [
                    *points,
                    ("not_a_point_embed", "not_a_point_embed"),
                    ("no_mask_embed", "no_mask_embed"),
                ]
            ],
            ("weight",),
        ),
    }


def _mask_decoder(preset: Preset, prefix: str) -> Layout:
    ours = "mask_decoder."
    layout = _copies([(ours + name, prefix + name) for name in ("iou_token", "mask_tokens")], ("weight",))
    pairs = [("output_upscaling.0", "upscale_conv1"), ("output_upscaling.1", "upscale_layer_norm")]
    pairs += [
        ("output_upscaling.3", "upscale_conv2"),
        ("transformer.norm_final_attn", "transformer.layer_norm_final_attn"),
    ]
    attentions = ["transformer.final_attn_token_to_image."]
    for number in range(2):
        layer = f"transformer.layers.{number}."
        pairs += [(f"{layer}norm{i}", f"{layer}layer_norm{i}") for i in (1, 2, 3, 4)]
        pairs += [(f"{layer}mlp.{name}", f"{layer}mlp.{name}") for name in ("lin1", "lin2")]
        attentions += [f"{layer}{name}." for name in _ATTENTIONS]
    pairs += [(a + name, a + name) for a in attentions for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
    heads = [f"output_hypernetworks_mlps.{i}." for i in range(preset.multimask_outputs + 1)]
    for head in [*heads, "iou_prediction_head."]:
        pairs += [(f"{head}layers.{i}", f"{head}{name}") for i, name in enumerate(("proj_in", "layers.0", "proj_out"))]
    return layout | _copies([(ours + one, prefix + other) for one, other in pairs])


_ATTENTIONS = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")


def _prompter() -> Layout:
    channel, spatial = "prompter_down_channel", "prompter_down_spatial"
    blocks = [channel, f"{spatial}.0", f"{spatial}.1"]
    return {
        **_copies([(f"prompter.{block}.conv", f"{block}.conv") for block in blocks], ("weight",)),
        **_copies([(f"prompter.{block}.bn", f"{block}.bn") for block in blocks], _BATCH_NORM),
        **_copies([(f"prompter.{spatial}.2", f"{spatial}.2.conv")]),
    }


def _paired(preset: Preset) -> PairedVits:
    assert isinstance(preset.image, PairedVits)
    return preset.image
