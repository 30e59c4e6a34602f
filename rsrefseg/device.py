"""Where a model computes: asked for by name, and refused in a sentence where it is not there."""

from __future__ import annotations

import torch

from rsrefseg.errors import BadRequest


def device_named(name: str) -> torch.device:
    """Look a device up.

    Args:
        name: "cpu", "cuda" or "cuda:1".

    Returns:
        torch's.

    Raises:
        BadRequest: If it is none of these, or this machine has no such GPU.
    """
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (":" in name and not number.isdecimal())):
        raise BadRequest(f"there is no device {name!r}: it is cpu, cuda, or one GPU of several, such as cuda:1")
    count = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= count:
        seen = f"torch {torch.__version__} sees {count or 'no'} GPU{'' if count == 1 else 's'} here"
        raise BadRequest(f"{name} cannot be used: {seen}; choose cpu, or look at what nvidia-smi says")
    return torch.device(name)
