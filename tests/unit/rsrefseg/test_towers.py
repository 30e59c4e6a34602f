import pytest
import torch
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT
from torch import nn

from rsrefseg.attention import CellAttention, GridAttention
from rsrefseg.lora import LoraLinear, adapt
from rsrefseg.presets import Lora, SamVit
from rsrefseg.towers import sam_image_encoder

# One window of SAM's is 14 x 14 cells and attends at once; 20 x 24 cells attend a few rows at a time.
GRIDS = {"a window": (14, 14), "the whole image": (20, 24), "one row": (1, 300), "one column": (300, 1)}


@pytest.fixture(params=GRIDS.values(), ids=GRIDS)
def grid(request):
    return request.param


def noisy(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module


def both(grid, dtype):
    original = noisy(Attention(24, 3, use_rel_pos=True, input_size=grid)).to(dtype)
    ours = GridAttention(24, 3, use_rel_pos=True, input_size=grid).to(dtype)
    ours.load_state_dict(original.state_dict())
    return original, ours, torch.randn(2, *grid, 24, dtype=dtype)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_attention_is_segment_anythings_to_the_last_digits(grid, dtype, most):
    original, ours, x = both(grid, dtype)
    with torch.no_grad():
        expected = original(x)
        assert (ours(x) - expected).abs().max() < most
        ours.rel_pos_h.zero_()
        assert grid[0] == 1 or (ours(x) - expected).abs().max() > 1e-3


def test_attention_on_other_devices_is_the_same(grid, monkeypatch):
    _, ours, x = both(grid, torch.float64)
    with torch.no_grad():
        on_cpu = ours(x)
        monkeypatch.setattr("rsrefseg.attention._plain_attention", nn.functional.scaled_dot_product_attention)
        assert (ours(x) - on_cpu).abs().max() < 1e-12


def test_positions_of_another_size_are_stretched_as_segment_anything_does():
    original, ours, _ = both((20, 20), torch.float64)
    x = torch.randn(1, 24, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        assert (ours(x) - original(x)).abs().max() < 1e-12


def test_gradients_are_segment_anythings_and_reach_adapters(grid):
    original, ours, x = both(grid, torch.float64)
    original(x).square().sum().backward()
    ours(x).square().sum().backward()
    for (name, one), other in zip(original.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=1e-9, rtol=1e-9, msg=name)
    adapt(ours, "qkv", Lora(rank=2))
    adapt(ours, "proj", Lora(rank=2))
    for layer in (ours.qkv, ours.proj):
        assert isinstance(layer, LoraLinear)
        nn.init.normal_(layer.lora_b)
    ours.train()(x).sum().backward()
    assert all(layer.lora_a.grad.any() and layer.lora_b.grad.any() for layer in (ours.qkv, ours.proj))


def test_the_whole_encoder_is_segment_anythings():
    tower = SamVit(width=24, layers=3, heads=2, window=5, global_layers=(1,))
    ours = noisy(
        sam_image_encoder(tower, 272, 16)
    ).double()  # 17 x 17 cells: windows are padded, and one layer is large
    original = ImageEncoderViT(
        img_size=272,
        patch_size=16,
        embed_dim=24,
        depth=3,
        num_heads=2,
        out_chans=16,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        use_rel_pos=True,
        window_size=5,
        global_attn_indexes=(1,),
    ).double()
    assert list(original.state_dict()) == list(ours.state_dict())
    original.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 272, 272, dtype=torch.float64)
    with torch.no_grad():
        expected = original(x)
        assert (ours(x) - expected).abs().max() < 1e-11 * expected.abs().max()


def test_cells_attend_to_each_other_as_in_torchs_own_encoder():
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    theirs = noisy(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).double()
    ours = CellAttention(16, 2).double()
    ours.load_state_dict(theirs.state_dict())
    cells = torch.randn(2, 30, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(cells), theirs(cells), atol=1e-12, rtol=0)
