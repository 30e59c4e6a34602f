import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rsrefseg.lora import LoraConv2d, LoraLinear, adapt, is_adapter, merge
from rsrefseg.presets import Lora

LORA = Lora(rank=3, alpha=6.0, dropout=0.5)


def filled(layer):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer.double().eval()


@pytest.fixture
def layers():
    """A stack with every kind of adapted layer."""
    stack = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 1, bias=False), nn.Linear(5, 9))
    adapt(stack, "0", LORA)
    adapt(stack, "1", LORA)
    adapt(stack, "2", LORA, groups=3)
    return filled(stack)


@pytest.fixture
def x():
    return torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("target", ["linear", "conv"])
def test_an_adapter_does_what_pefts_does(target):
    plain = nn.Linear(7, 5) if target == "linear" else nn.Conv2d(7, 5, 3, stride=2, padding=1)
    theirs = filled(get_peft_model(nn.Sequential(plain), LoraConfig(r=3, lora_alpha=6, target_modules=["0"])))
    wrapped = theirs.base_model.model[0]
    ours = LoraLinear(plain, LORA) if target == "linear" else LoraConv2d(plain, LORA)
    ours = ours.double().eval()
    ours.lora_a.data = wrapped.lora_A["default"].weight.data
    ours.lora_b.data = wrapped.lora_B["default"].weight.data
    x = torch.randn((2, 7) if target == "linear" else (2, 7, 6, 6), dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-12, rtol=0)


def test_layers_side_by_side_have_adapters_of_their_own():
    packed = filled(LoraLinear(nn.Linear(5, 9), LORA, groups=3))
    x = torch.randn(4, 5, dtype=torch.float64)
    for number, rows in enumerate(packed(x).split(3, dim=-1)):
        own = slice(3 * number, 3 * number + 3)
        plain = x @ packed.weight[own].T + packed.bias[own]
        torch.testing.assert_close(rows, plain + 2 * (x @ packed.lora_a[own].T) @ packed.lora_b[own].T)


def test_merging_changes_nothing_but_the_names(layers, x):
    before = layers(x)
    names = [name for name in layers.state_dict() if not is_adapter(name)]
    merge(layers)
    assert list(layers.state_dict()) == names
    torch.testing.assert_close(layers(x), before, atol=1e-10, rtol=0)


def test_half_precision_is_merged_in_single():
    layer = filled(LoraLinear(nn.Linear(64, 64), LORA)).half()
    wide = layer.weight.float() + 2 * layer.lora_b.float() @ layer.lora_a.float()
    torch.testing.assert_close(layer.merged().weight, wide.half(), atol=0, rtol=0)


def test_a_fresh_adapter_changes_nothing():
    plain = nn.Linear(5, 6)
    x = torch.randn(3, 5)
    torch.testing.assert_close(LoraLinear(plain, LORA)(x), plain(x))


def test_only_the_adapter_trains(layers, x):
    layers.train()(x).sum().backward()
    for name, parameter in layers.named_parameters():
        assert (parameter.grad is not None) == is_adapter(name), name


def test_an_adapter_drops_out_while_it_trains(layers, x):
    assert (layers.train()(x) - layers(x)).abs().max() > 0
    assert (layers.eval()(x) - layers(x)).abs().max() == 0
