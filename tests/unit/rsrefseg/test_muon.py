from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rsrefseg.model import RSRefSeg
from rsrefseg.muon import Muon, steps_by_muon


@pytest.fixture
def layers() -> nn.ModuleList:
    torch.manual_seed(0)
    kinds = ((nn.Conv2d, 24, 32, 3), (nn.Conv2d, 48, 32, 1), (nn.ConvTranspose2d, 32, 16, 2))
    return nn.ModuleList([layer(i, o, side, bias=False) for layer, i, o, side in kinds])


def slope(layers: nn.ModuleList, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in layers.parameters():
        # Some directions are a hundred times as steep as others.
        steep = torch.logspace(0, -2, len(weight))[:, None, None, None]
        weight.grad = steep * torch.randn(weight.shape, generator=generator)


def test_every_direction_of_a_convolution_moves_about_as_far_as_the_next(layers):
    optimiser = Muon([{"params": list(layers.parameters()), "weight_decay": 0.0}], lr=1e-2)
    before = copy.deepcopy(layers)
    slope(layers, 0)
    optimiser.step()
    for weight, was in zip(layers.parameters(), before.parameters(), strict=True):
        moved = (weight - was).detach().flatten(1)
        values = torch.linalg.svdvals(moved)
        assert values.max() / values.min() < 3, "where the slope has a hundredfold"
        assert 0.1e-2 < moved.square().mean().sqrt() < 0.4e-2, "as far as AdamW's steps at that rate"


def test_how_weights_lie_in_memory_and_where_they_moved_changes_nothing(layers):
    rows, last = layers, copy.deepcopy(layers)
    optimisers = [Muon([{"params": list(some.parameters())}], lr=1e-2) for some in (rows, last)]
    last.to(memory_format=torch.channels_last)
    for weight in last.parameters():
        weight.data = weight.data.clone()  # as .to(device) does
    for seed in range(3):
        for some, optimiser in zip((rows, last), optimisers, strict=True):
            slope(some, seed)
            optimiser.step()
    for one, other in zip(rows.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_maps_between_features_step_so_and_nothing_that_was_told_or_is_looked_up(small):
    chosen = {name for name, parameter in RSRefSeg(small).named_parameters() if steps_by_muon(name, parameter)}
    assert "image_encoder.to_clip.0.0.weight" in chosen
    assert "mask_decoder.transformer.layers.0.mlp.lin1.weight" in chosen
    assert "image_encoder.traits.1.weight" not in chosen, "twelve rows: one for each trait"
    rooms = ("text_encoder.", "prompter.comparison.", "prompt_encoder.point_embeddings.", "mask_decoder.mask_tokens.")
    assert not [name for name in chosen if name.startswith(rooms) or name.endswith(".bias")]
