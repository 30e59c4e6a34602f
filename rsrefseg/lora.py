"""Low-rank adapters: small weights beside large ones that do not move.

An adapted layer is the layer it was, with two parameters more. So a model's other names do not change when it gets
adapters or when these are merged, and whatever ends in `lora_a` or `lora_b` is an adapter.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsrefseg.presets import Lora

ADAPTER_NAMES = ("lora_a", "lora_b")


def is_adapter(name: str) -> bool:
    """Tell adapters from the rest of a state dict.

    Args:
        name: Of a parameter.

    Returns:
        Whether it belongs to an adapter.
    """
    return name.rpartition(".")[2] in ADAPTER_NAMES


class LoraLinear(nn.Linear):
    """A linear layer with an adapter.

    Where one matrix holds several layers side by side (query, key and value), each has an adapter of its own, as it
    had in the separate layers that published checkpoints were trained with: their sum is no longer of rank r.

    Args:
        linear: Whose weights it takes over; they stop training.
        lora: Rank, scale and dropout.
        groups: Layers side by side in the rows of the matrix.
    """

    def __init__(self, linear: nn.Linear, lora: Lora, groups: int = 1) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight.requires_grad_(False), linear.bias
        if linear.bias is not None:
            linear.bias.requires_grad_(False)
        self.groups = groups
        self.scale = lora.alpha / lora.rank
        self.dropout = lora.dropout
        self.lora_a = nn.Parameter(linear.weight.new_empty(groups * lora.rank, linear.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_empty(linear.out_features, lora.rank))
        start(self.lora_a, self.lora_b)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its adapter.

        Args:
            x: (..., in_features).

        Returns:
            (..., out_features).
        """
        plain = functional.linear(x, self.weight, self.bias)
        low = functional.linear(functional.dropout(x, self.dropout, self.training), self.lora_a)  # (..., groups * r)
        low = low.unflatten(-1, (self.groups, -1))  # (..., groups, r)
        wide = self.lora_b.unflatten(0, (self.groups, -1))  # (groups, out / groups, r)
        return plain + self.scale * torch.einsum("...gr,gor->...go", low, wide).flatten(-2)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Add the adapter to the weight, in float32 at the least.

        Returns:
            The plain layer that does the same; its weight is this one's, changed in place.
        """
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        a = self.lora_a.to(wide).unflatten(0, (self.groups, -1))  # (groups, r, in)
        b = self.lora_b.to(wide).unflatten(0, (self.groups, -1))  # (groups, out / groups, r)
        weight = self.weight.to(wide) + self.scale * torch.einsum("gor,gri->goi", b, a).flatten(0, 1)
        self.weight.copy_(weight)
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight, plain.bias = self.weight, self.bias
        return plain


class LoraConv2d(nn.Conv2d):
    """A convolution with an adapter: one of its own kind to r channels, then 1 x 1.

    Args:
        conv: Whose weights it takes over; they stop training.
        lora: Rank, scale and dropout.
    """

    def __init__(self, conv: nn.Conv2d, lora: Lora) -> None:
        assert conv.groups == 1, "SAM's neck has no other convolutions"
        super().__init__(**_geometry(conv))
        self.weight, self.bias = conv.weight.requires_grad_(False), conv.bias
        if conv.bias is not None:
            conv.bias.requires_grad_(False)
        self.scale = lora.alpha / lora.rank
        self.dropout = lora.dropout
        self.lora_a = nn.Parameter(conv.weight.new_empty(lora.rank, *conv.weight.shape[1:]))
        self.lora_b = nn.Parameter(conv.weight.new_empty(conv.out_channels, lora.rank, 1, 1))
        start(self.lora_a, self.lora_b)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its adapter.

        Args:
            x: (b, in, h, w).

        Returns:
            (b, out, h', w').
        """
        plain: Tensor = self._conv_forward(x, self.weight, self.bias)
        low = self._conv_forward(functional.dropout(x, self.dropout, self.training), self.lora_a, None)
        return plain + self.scale * functional.conv2d(low, self.lora_b)

    @torch.no_grad()
    def merged(self) -> nn.Conv2d:
        """Add the adapter to the weight, in float32 at the least.

        Returns:
            The plain layer that does the same; its weight is this one's, changed in place.
        """
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        update = torch.einsum("or,rikl->oikl", self.lora_b[:, :, 0, 0].to(wide), self.lora_a.to(wide))
        self.weight.copy_(self.weight.to(wide) + self.scale * update)
        plain = nn.Conv2d(**_geometry(self))
        plain.weight, plain.bias = self.weight, self.bias
        return plain


def _geometry(conv: nn.Conv2d) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    return {**{name: getattr(conv, name) for name in names}, "bias": conv.bias is not None, "device": "meta"}


def start(lora_a: Tensor, lora_b: Tensor) -> None:
    """Initialise an adapter, so that it changes nothing at first.

    Args:
        lora_a: Filled with Kaiming's uniform noise.
        lora_b: Filled with zeros.
    """
    nn.init.kaiming_uniform_(lora_a, a=math.sqrt(5))
    nn.init.zeros_(lora_b)


def adapt(parent: nn.Module, name: str, lora: Lora, groups: int = 1) -> None:
    """Give a layer an adapter.

    Args:
        parent: Anything above the layer.
        name: Of the layer below it, dots between.
        lora: Rank, scale and dropout.
        groups: Layers side by side in the rows of a linear one.
    """
    layer = parent.get_submodule(name)
    assert isinstance(layer, (nn.Linear, nn.Conv2d)), f"{name} is neither a linear layer nor a convolution"
    adapted = LoraLinear(layer, lora, groups) if isinstance(layer, nn.Linear) else LoraConv2d(layer, lora)
    parent.set_submodule(name, adapted)


def merge(model: nn.Module) -> None:
    """Add every adapter below a module to the weight it belongs to; what it computes stays the same.

    Args:
        model: Changed in place.
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, (LoraLinear, LoraConv2d)):
            model.set_submodule(name, layer.merged())
