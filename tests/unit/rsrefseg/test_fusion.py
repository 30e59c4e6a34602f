import pytest
import torch

from rsrefseg.fusion import Fusion


@pytest.fixture
def fusion():
    torch.manual_seed(0)
    return Fusion(clip_dim=8, width=16, layers=2).eval()


def inputs(images=1, expressions=2):
    torch.manual_seed(1)
    clip, pooled = torch.randn(images, 8, 6, 4), torch.randn(expressions, 8)
    return clip, pooled, torch.randn(expressions, 6, 4)


def test_it_starts_as_no_correction(fusion):
    clip, pooled, matched = inputs()
    assert fusion(clip, pooled, torch.tensor([0, 0]), matched).abs().max() == 0


def test_a_cell_far_away_changes_the_correction_of_another(fusion):
    torch.nn.init.normal_(fusion.correction.weight)
    clip, pooled, matched = inputs()
    other = matched.clone()
    other[:, 5, 3] += 3
    about = torch.tensor([0, 0])
    moved = fusion(clip, pooled, about, other) - fusion(clip, pooled, about, matched)
    assert moved[:, 0, 0].abs().min() > 1e-4


def test_each_expression_is_corrected_by_its_own_image(fusion):
    torch.nn.init.normal_(fusion.correction.weight)
    clip, pooled, matched = inputs(images=2)
    both = fusion(clip, pooled, torch.tensor([1, 0]), matched)
    first = fusion(clip[1:], pooled[:1], torch.tensor([0]), matched[:1])
    torch.testing.assert_close(both[:1], first, atol=1e-5, rtol=1e-4)
