import os
import sys
import types
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from rsrefseg import checkpoint, foundation
from rsrefseg.cli import main
from rsrefseg.convert import convert
from rsrefseg.errors import BadCheckpoint, MissingWeights
from rsrefseg.presets import TINY
from tests.unit.rsrefseg.published import small_published

IDS = [torch.tensor([5, 9, 30, 1])]


@pytest.fixture(scope="module")
def published():
    return small_published()


@pytest.fixture(scope="module")
def weights(published):
    return published.state_dict()


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(3, 208, 208, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def expected(published, pixels):
    with torch.no_grad():
        return published.low_res_logits(pixels, IDS[0])


@pytest.fixture
def same(expected, pixels, small_b, tmp_path):
    """Convert a file and insist that it draws what the published graph draws."""

    def check(origin, tolerance=5e-4, **options):
        done = convert(origin, small_b, tmp_path / "out", foundation_folder=tmp_path, **options)
        with torch.no_grad():
            logits = checkpoint.load(tmp_path / "out").low_res_logits(pixels, IDS)[0]
        assert (logits - expected).abs().max() < tolerance
        return done

    return check


@pytest.fixture
def other_libraries(monkeypatch):
    """Classes that a pickle names as mmengine's and DeepSpeed's, gone again when the file is read."""
    made = {}

    def make(path, base=object):
        module, _, name = path.rpartition(".")
        parents = module.split(".")
        for depth in range(1, len(parents) + 1):
            parent = ".".join(parents[:depth])
            if parent not in made:
                made[parent] = types.ModuleType(parent)
                made[parent].__path__ = []
                monkeypatch.setitem(sys.modules, parent, made[parent])
        kind = type(name, (base,), {"__module__": module})
        setattr(made[module], name, kind)
        return kind

    def forget():
        for module in made:
            monkeypatch.delitem(sys.modules, module)

    return make, forget


def test_a_bare_state_dict_is_read(same, weights, tmp_path):
    torch.save(weights, tmp_path / "epoch_85.pth")
    done = same(tmp_path / "epoch_85.pth")
    assert done.preset.lora.rank == 4
    assert not done.left_out


def test_mmengines_file_is_read_with_its_message_hub_and_config(same, weights, tmp_path, other_libraries):
    make, forget = other_libraries
    history = make("mmengine.logging.history_buffer.HistoryBuffer")()
    history.max_length = 10
    history._log_history, history._count_history = np.array([0.5, 0.25]), np.array([1, 1])
    config = make("mmengine.config.config.Config")()
    config.filename = "RSRefSeg-b.py"
    nested = make("mmengine.config.config.ConfigDict", dict)(model={"type": "RefSegEncoderDecoder"})
    nested.frozen = True
    torch.save(
        {
            "meta": {"epoch": 85, "cfg": "model = dict()", "dataset_meta": {"classes": ("bg", "fg")}},
            "message_hub": {
                "log_scalars": OrderedDict({"train/loss": history}),
                "runtime_info": OrderedDict(gIoU=np.float64(63.7), config=config, nested=nested),
                "resumed_keys": OrderedDict(),
            },
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
            "param_schedulers": [{"last_step": 3}],
            "state_dict": weights,
        },
        tmp_path / "epoch_85.pth",
    )
    forget()
    same(tmp_path / "epoch_85.pth")


@pytest.mark.parametrize("prefix", ["module.", "module.module."])
def test_a_prefix_of_a_wrapper_is_taken_off(same, weights, tmp_path, prefix):
    torch.save({"state_dict": {prefix + name: value for name, value in weights.items()}}, tmp_path / "wrapped.pth")
    same(tmp_path / "wrapped.pth")


@pytest.mark.parametrize("below", ["", "global_step7"])
def test_deepspeeds_folder_is_read(same, weights, tmp_path, below, other_libraries):
    make, forget = other_libraries
    folder = tmp_path / "epoch_85.pth"
    (folder / below).mkdir(parents=True)
    scaler = make("deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler")()
    scaler.cur_scale = 2.0**15
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    torch.save(
        {
            "module": halves,
            "loss_scaler": scaler,
            "param_shapes": [OrderedDict(a=torch.Size([3]))],
            "optimizer": None,
            "ds_config": {"zero_optimization": {"stage": 2}},
            "ds_version": "0.16.2",
            "dtype": torch.float16,
        },
        folder / below / "mp_rank_00_model_states.pt",
    )
    forget()
    same(folder, tolerance=0.2)
    stored = load_file(tmp_path / "out" / checkpoint.WEIGHTS)
    assert {value.dtype for value in stored.values()} == {torch.float16, torch.int64}


def test_the_newest_of_several_deepspeed_steps_is_read(same, weights, tmp_path):
    for step in ("global_step1", "global_step2"):
        (tmp_path / "run" / step).mkdir(parents=True)
        torch.save(
            {"module": weights if step == "global_step2" else {"a": torch.zeros(1)}},
            tmp_path / "run" / step / "mp_rank_00_model_states.pt",
        )
    (tmp_path / "run" / "latest").write_text("global_step2\n")
    same(tmp_path / "run")


def test_a_file_of_before_torch_1_6_is_read(same, weights, tmp_path):
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    same(tmp_path / "old.pth")


def test_numbers_stay_what_they_were(weights, small_b, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", small_b, tmp_path / "out", foundation_folder=tmp_path)
    stored = load_file(tmp_path / "out" / checkpoint.WEIGHTS)
    assert torch.equal(
        stored["image_encoder.frequencies"],
        weights["backbone.base_model.model.shared_image_embedding.positional_embedding"],
    )
    assert stored["mask_decoder.iou_token.weight"].dtype == torch.float32
    bn = "prompter.prompter_down_channel.bn.running_var"
    assert torch.equal(stored[bn], weights["prompter_down_channel.bn.running_var"])


def test_one_tensor_of_two_names_becomes_two(weights, small_b, tmp_path):
    tied = dict(weights)
    first = "backbone.base_model.model.shared_image_embedding.positional_embedding"
    tied["sam_prompt_encoder.model.shared_embedding.positional_embedding"] = tied[first]
    torch.save(tied, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", small_b, tmp_path / "out", foundation_folder=tmp_path)
    stored = load_file(tmp_path / "out" / checkpoint.WEIGHTS)
    matrix = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    assert torch.equal(stored[matrix], stored["image_encoder.frequencies"])


def test_half_precision_is_an_option(same, weights, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    same(tmp_path / "a.pth", tolerance=0.2, half=True)
    size = (tmp_path / "out" / checkpoint.WEIGHTS).stat().st_size
    assert size < 0.7 * sum(value.nbytes for value in weights.values())


def test_alpha_is_an_option(small_b, expected, pixels, tmp_path):
    other = small_published(alpha=4)
    torch.save(other.state_dict(), tmp_path / "a.pth")
    with torch.no_grad():
        wanted = other.low_res_logits(pixels, IDS[0])
        for alpha, right in ((4, True), (16, False)):
            convert(tmp_path / "a.pth", small_b, tmp_path / str(alpha), alpha=alpha, foundation_folder=tmp_path)
            logits = checkpoint.load(tmp_path / str(alpha)).low_res_logits(pixels, IDS)[0]
            assert ((logits - wanted).abs().max() < 5e-4) == right
    versions = {checkpoint.version(tmp_path / str(alpha)) for alpha in (4, 16)}
    assert len(versions) == 2, "the same weights at another alpha draw other masks"


def test_means_of_the_preprocessor_are_left_out_and_named(same, weights, tmp_path):
    torch.save({**weights, "data_preprocessor.mean": torch.zeros(3, 1, 1)}, tmp_path / "a.pth")
    assert same(tmp_path / "a.pth").left_out == ("data_preprocessor.mean",)


def refused(weights, preset, tmp_path, match):
    torch.save(weights, tmp_path / "refused.pth")
    with pytest.raises(BadCheckpoint, match=match):
        convert(tmp_path / "refused.pth", preset, tmp_path / "refused", foundation_folder=tmp_path)
    assert not (tmp_path / "refused").exists()


def test_an_unknown_name_is_listed(weights, small_b, tmp_path):
    more = {**weights, "decode_head.conv_seg.weight": torch.zeros(2)}
    refused(more, small_b, tmp_path, r"0 missing; 1 unknown: decode_head\.conv_seg\.weight")


def test_a_missing_name_is_listed(weights, small_b, tmp_path):
    fewer = {name: value for name, value in weights.items() if name != "sam_mask_decoder.model.iou_token.weight"}
    refused(fewer, small_b, tmp_path, r"1 missing: sam_mask_decoder\.model\.iou_token\.weight; 0 unknown")


def test_a_missing_adapter_is_listed(weights, small_b, tmp_path):
    name = "clip_text_encoder.base_model.model.model.head.lora_B.default.weight"
    refused({k: v for k, v in weights.items() if k != name}, small_b, tmp_path, f"1 missing: {name}")


def test_another_shape_is_listed(weights, small_b, tmp_path):
    name = "sam_prompt_encoder.model.no_mask_embed.weight"
    refused({**weights, name: torch.zeros(1, 33)}, small_b, tmp_path, rf"{name} \(1, 33\)")


def test_a_checkpoint_of_the_other_size_is_told_in_one_sentence(weights, small_b, tmp_path):
    wider = replace(small_b, image=replace(small_b.image, sam=replace(small_b.image.sam, width=32)))
    refused(weights, wider, tmp_path, "SAM encoder of width 24, and preset 'b' one of 32: try the other preset")


def test_adapters_of_several_ranks_are_refused(weights, small_b, tmp_path):
    name = "clip_text_encoder.base_model.model.model.head.lora_A.default.weight"
    refused({**weights, name: torch.zeros(5, 36)}, small_b, tmp_path, "adapters of 2 ranks")


def test_what_holds_no_weights_is_described(small_b, tmp_path):
    refused({"meta": 1, "epoch": 2}, small_b, tmp_path, "2 other entries: epoch, meta")
    refused([1, 2], small_b, tmp_path, "but a list")


def test_tiny_has_no_published_form(weights, tmp_path):
    refused(weights, TINY, tmp_path, "no published checkpoint has the form of preset 'tiny'")


class Runs:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize(
    ("call", "name"),
    [(os.system, "posix.system"), (eval, "eval"), (getattr, "getattr"), (os.mkdir, "posix.mkdir")],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_name_and_not_run(weights, small_b, tmp_path, call, name, zipped):
    trace = tmp_path / "trace"
    argument = {"eval": f"open({str(trace)!r}, 'w')", "posix.mkdir": str(trace)}.get(name, f"touch {trace}")
    file = tmp_path / "evil.pth"
    torch.save({"state_dict": weights, "hook": Runs(call, argument)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadCheckpoint, match=rf"asks to load {name}, which is no part of a checkpoint"):
        convert(file, small_b, tmp_path / "out", foundation_folder=tmp_path)
    assert not trace.exists()


def test_other_classes_of_mmengine_are_refused_by_name(weights, small_b, tmp_path, other_libraries):
    make, forget = other_libraries
    runner = make("mmengine.runner.runner.Runner")()
    torch.save({"state_dict": weights, "runner": runner}, tmp_path / "a.pth")
    forget()
    with pytest.raises(BadCheckpoint, match=r"mmengine\.runner\.runner\.Runner"):
        convert(tmp_path / "a.pth", small_b, tmp_path / "out", foundation_folder=tmp_path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half an archive", b"\x80\x02}q\x00."])
def test_what_is_no_checkpoint_is_said_to_be_none(small_b, tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"not a checkpoint|no weights by name"):
        convert(tmp_path / "a.pth", small_b, tmp_path / "out")


def test_a_cut_off_file_is_said_to_be_damaged(weights, small_b, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:100_000])
    with pytest.raises(BadCheckpoint, match="damaged"):
        convert(tmp_path / "a.pth", small_b, tmp_path / "out")


def test_a_missing_file_is_named(small_b, tmp_path):
    with pytest.raises(BadCheckpoint, match=r"there is no file .*nowhere\.pth"):
        convert(tmp_path / "nowhere.pth", small_b, tmp_path / "out")


def test_a_folder_of_something_else_is_refused(small_b, tmp_path):
    with pytest.raises(BadCheckpoint, match=r"holds 0 files named mp_rank_00_model_states\.pt"):
        convert(tmp_path, small_b, tmp_path / "out")


def test_a_model_in_parts_is_refused(small_b, tmp_path):
    for rank in ("00", "01"):
        torch.save({}, tmp_path / f"mp_rank_{rank}_model_states.pt")
    with pytest.raises(BadCheckpoint, match="several parts"):
        convert(tmp_path, small_b, tmp_path / "out")


def test_a_checkpoint_is_never_overwritten(weights, small_b, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", small_b, tmp_path / "out", foundation_folder=tmp_path)
    with pytest.raises(BadCheckpoint, match="choose another folder"):
        convert(tmp_path / "a.pth", small_b, tmp_path / "out", foundation_folder=tmp_path)


def test_siglips_words_are_put_beside_the_weights(same, weights, small_b, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(MissingWeights, match=r"rsrefseg weights fetch --preset b --words-only"):
        checkpoint.vocabulary(tmp_path, small_b, tmp_path)
    words = tmp_path / foundation.VOCABULARY.path
    words.parent.mkdir()
    words.write_bytes(b"words")
    assert same(tmp_path / "a.pth").has_words
    words.unlink()
    assert checkpoint.vocabulary(tmp_path / "out", small_b, tmp_path).read_bytes() == b"words"


@pytest.fixture
def command(small_b, monkeypatch):
    monkeypatch.setattr("rsrefseg.presets.preset_named", lambda _: small_b)
    return lambda *words: CliRunner().invoke(main, ["convert", *map(str, words)])


def test_the_command_says_what_came_of_it(command, weights, tmp_path):
    torch.save({**weights, "data_preprocessor.std": torch.ones(3)}, tmp_path / "a.pth")
    options = ["--preset", "b", "--out", tmp_path / "out", "--alpha", "8", "--foundation", tmp_path]
    result = command(tmp_path / "a.pth", *options)
    assert result.exit_code == 0, result.output
    assert "363 tensors" in result.output
    assert "rank 4, alpha 8" in result.output
    assert "left out, no part of the model: data_preprocessor.std" in result.output
    assert "weights fetch --preset b --words-only" in result.output
    assert "alpha 8" in (tmp_path / "out" / checkpoint.CARD).read_text()


def test_the_command_fails_with_a_sentence(command, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"nothing")
    result = command(tmp_path / "a.pth", "--preset", "b", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output
