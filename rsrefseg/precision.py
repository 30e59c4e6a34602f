"""How many digits a model computes with."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn

from rsrefseg.errors import BadRequest

Dtype = Literal["float32", "bfloat16", "float16"]
"""On a CPU float16 is slower than float32; bfloat16 is faster where the CPU has avx512_bf16."""

# Cosines are scaled by exp(logit_scale), and positions are angles of many turns: in half precision both go astray.
_KEPT = ("logit_scale", "logit_bias", "frequencies", "context_frequencies", "positional_encoding_gaussian_matrix")


def dtype_named(name: str) -> torch.dtype:
    """Look a precision up.

    Args:
        name: "float32", "bfloat16" or "float16".

    Returns:
        torch's.

    Raises:
        BadRequest: If it is none of these.
    """
    if name not in get_args(Dtype):
        raise BadRequest(f"there is no precision {name!r}; there are: {', '.join(get_args(Dtype))}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def lower(model: nn.Module, dtype: torch.dtype) -> None:
    """Turn weights to another precision, one after the other.

    What half precision would spoil stays as it is: the scale and bias of cosines, position matrices, and batch norm,
    whose variances exceed float16's range. So do the sums behind them, in `prompter.py` and `position.py`.

    Args:
        model: Changed in place.
        dtype: The precision.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            continue
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            if tensor.is_floating_point() and name not in _KEPT:
                tensor.data = tensor.data.to(dtype)
