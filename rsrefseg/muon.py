"""Muon for the weights of a whole network: torch's takes matrices alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

LEAST = 16
"""Rows and columns that make a matrix; one with fewer, an embedding or a last layer, is no map between features."""

TOLD = ("text_encoder.", "prompter.comparison.")
"""What is told before any image what it means, and should not turn away from it: by the start of its weights' names."""


def steps_by_muon(name: str, parameter: nn.Parameter) -> bool:
    """Tell the weights of linear layers and convolutions, which map features to features, from all others.

    Args:
        name: In `RSRefSeg`.
        parameter: Of any shape.

    Returns:
        Whether Muon suits it.
    """
    return parameter.ndim > 1 and min(parameter.flatten(1).shape) >= LEAST and not name.startswith(TOLD)


class Muon(torch.optim.Muon):
    """Steps of orthogonal matrices: each direction of a weight moves as far as the next, however weak its gradient.

    A convolution (o, i, h, w) is taken for a matrix (o, i h w). Steps are as long as those of AdamW, so that both share
    a learning rate (arXiv 2502.16982, section 2.2).

    Args:
        groups: Of parameters with two dimensions or more, as every optimiser takes them.
        lr: Learning rate.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], lr: float) -> None:
        self._weights: list[nn.Parameter] = [weight for group in groups for weight in group["params"]]
        matrices = [
            {**group, "params": [nn.Parameter(w.detach().flatten(1)) for w in group["params"]]} for group in groups
        ]
        super().__init__(matrices, lr=lr, adjust_lr_fn="match_rms_adamw")
        self.register_step_pre_hook(self._take)
        self.register_step_post_hook(self._give)

    def _pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        return zip(self._weights, (matrix for group in self.param_groups for matrix in group["params"]), strict=True)

    def _take(self, *_: object) -> None:
        for weight, matrix in self._pairs():
            # Anew each time, since weights may have moved to another device; a copy, since only some layouts in memory
            # can be seen as a matrix.
            matrix.data = weight.detach().flatten(1).clone()
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)

    @torch.no_grad()
    def _give(self, *_: object) -> None:
        for weight, matrix in self._pairs():
            weight.copy_(matrix.view(weight.shape))
            matrix.grad = None
