"""What corrections teach: all that lies behind the image encoder, so that many models share one."""

from __future__ import annotations

import copy

from rsrefseg.model import RSRefSeg
from rsrefseg.presets import SharedTrunk

_SHARED = (
    # SAM's position matrix: the image encoder was trained with it, and every model over it reads the same.
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
)
_SIGLIPS = ("prompter.logit_scale", "prompter.logit_bias")


def head_names(model: RSRefSeg) -> set[str]:
    """Name what a model has to itself where many share an image encoder, running statistics included.

    These are the prompter, the prompt encoder and the mask decoder; and the text tower where it was trained from
    nothing, since it knows the words of its lessons and no others. SigLIP's text tower knows the language and stays.

    Args:
        model: Of any preset, its adapters merged or not.

    Returns:
        Names of its state dict.
    """
    small = isinstance(model.preset.image, SharedTrunk)
    parts = ("prompter.", "prompt_encoder.", "mask_decoder.", *(("text_encoder.",) if small else ()))
    shared = _SHARED if small else _SHARED + _SIGLIPS
    return {name for name in model.state_dict() if name.startswith(parts) and name not in shared}


def teach_heads(model: RSRefSeg) -> None:
    """Let the heads learn, and nothing else.

    Args:
        model: Changed in place.
    """
    names = head_names(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


def with_own_heads(model: RSRefSeg) -> RSRefSeg:
    """Copy a model's heads; the rest is the same in both, and takes no memory twice.

    Args:
        model: Left as it is.

    Returns:
        A model that draws the same until its heads are changed.
    """
    small = isinstance(model.preset.image, SharedTrunk)
    shared = (model.image_encoder,) if small else (model.image_encoder, model.text_encoder)
    return copy.deepcopy(model, {id(part): part for part in shared})
