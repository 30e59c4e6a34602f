import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rsrefseg import Predictor, checkpoint
from rsrefseg.calibration import Calibration
from rsrefseg.errors import BadCheckpoint
from rsrefseg.heads import head_names, teach_heads
from rsrefseg.model import RSRefSeg

BASE = "random@00000000"
WORDS = ["the ship", "all tanks at the pier"]
STATISTICS = "prompter.prompter_down_channel.bn.running_var"


@pytest.fixture(params=["tiny", "b"])
def make_predictor(request, small, small_b):
    """Predictors of a small model of either kind, the same at each call."""

    def make(dtype="float32", *, merged=True):
        torch.manual_seed(3)
        model = RSRefSeg(small if request.param == "tiny" else small_b)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        if merged:
            model.merge_adapters()
        return Predictor(
            model, BASE, dtype=dtype, tokenizer=lambda words: torch.arange(3, 4 + len(words.split())), compile=False
        )

    return make


def write_heads(model, folder, *, seed=1, base=BASE, **options):
    """Heads that were taught something: every weight moved."""
    torch.manual_seed(seed)
    names = head_names(model)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name in names and value.is_floating_point() and "running_" not in name:
                value.add_(0.05 * torch.randn_like(value))
    checkpoint.save_heads(model, folder, "card", base, **options)
    return folder


@pytest.fixture
def heads(make_predictor, tmp_path):
    return write_heads(make_predictor().model, tmp_path / "heads")


def drawn(predictor, image):
    return [(found.mask.tobytes(), found.score, found.predicted_iou) for found in predictor.segment(image, WORDS)]


def test_only_what_lies_behind_the_image_encoder_learns(model):
    teach_heads(model)
    learning = {name.partition(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert learning == {"prompter", "prompt_encoder", "mask_decoder", "text_encoder"}


def test_siglips_text_tower_and_scale_stay_and_are_in_no_file(small_b):
    model = RSRefSeg(small_b)
    teach_heads(model)
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name.partition(".")[0] for name in learning} == {"prompter", "prompt_encoder", "mask_decoder"}
    assert "prompter.logit_scale" not in learning
    assert learning <= head_names(model)


def test_a_position_matrix_that_the_image_encoder_shares_belongs_to_no_head_but_statistics_do(model, small_b):
    for one in (model, RSRefSeg(small_b)):
        names = head_names(one)
        assert not [name for name in names if "gaussian_matrix" in name or name.startswith("image_encoder")]
        assert STATISTICS in names


def test_other_heads_draw_other_masks_and_the_base_draws_as_before(make_predictor, heads, image):
    base = make_predictor()
    before = drawn(base, image)
    project = base.with_heads(heads)
    after = drawn(project, image)
    assert after != before
    assert drawn(base, image) == before
    assert drawn(project, image) == after
    assert drawn(base.with_heads(heads), image) == after
    assert (base.version, project.version, project.base_version) == (BASE, checkpoint.version(heads), BASE)


def test_heads_draw_what_the_model_drew_that_was_taught(make_predictor, tmp_path, image):
    taught = make_predictor()
    folder = write_heads(taught.model, tmp_path / "heads", half=False)
    assert drawn(make_predictor().with_heads(folder), image) == drawn(taught, image)


def test_half_precision_keeps_the_masks(make_predictor, tmp_path, image):
    full = write_heads(make_predictor().model, tmp_path / "full", half=False)
    half = write_heads(make_predictor().model, tmp_path / "half")
    sizes = [(folder / checkpoint.WEIGHTS).stat().st_size for folder in (half, full)]
    assert sizes[0] < 0.6 * sizes[1]
    base = make_predictor()
    pairs = zip(base.with_heads(half).segment(image, WORDS), base.with_heads(full).segment(image, WORDS), strict=True)
    assert all((one.mask != other.mask).mean() < 0.01 for one, other in pairs)


def test_an_image_is_encoded_once_for_the_base_and_all_projects(make_predictor, tmp_path, image):
    base, encoded = make_predictor(), []
    base.model.image_encoder.register_forward_hook(lambda _module, given, _features: encoded.append(len(given[0])))
    projects = [
        base.with_heads(write_heads(make_predictor().model, tmp_path / str(seed), seed=seed)) for seed in (1, 2)
    ]
    answers = [drawn(predictor, image) for predictor in (*projects, base)]
    assert encoded == [1]
    assert answers[0] != answers[1] != answers[2]
    assert projects[0].cache is projects[1].cache is base.cache
    assert drawn(projects[1], projects[0].encode(image)) == answers[1]


def test_only_the_heads_take_memory_again(make_predictor, heads):
    base = make_predictor()
    project = base.with_heads(heads)
    ours, theirs = (
        {name: value.data_ptr() for name, value in predictor.model.state_dict().items()}
        for predictor in (base, project)
    )
    apart = {name for name in ours if ours[name] != theirs[name]}
    shared = {name for name in ours if name not in head_names(base.model)}
    assert head_names(base.model) <= apart
    assert not [name for name in apart & shared if name.startswith(("image_encoder", "text_encoder"))]


def test_heads_go_over_a_base_in_half_precision(make_predictor, heads, image):
    exact = make_predictor().with_heads(heads)
    project = make_predictor("bfloat16").with_heads(heads)
    assert {name: value.dtype for name, value in project.model.state_dict().items()} == {
        name: value.dtype for name, value in make_predictor("bfloat16").model.state_dict().items()
    }
    pairs = zip(project.segment(image, WORDS), exact.segment(image, WORDS), strict=True)
    assert all((one.mask != other.mask).mean() < 0.05 for one, other in pairs)


def test_heads_taught_beside_adapters_go_over_a_base_that_merged_them(make_predictor, tmp_path, image):
    apart = make_predictor(merged=False)
    folder = write_heads(apart.model, tmp_path / "heads", half=False)
    project = make_predictor().with_heads(folder)
    pairs = zip(project.segment(image, WORDS), apart.segment(image, WORDS), strict=True)
    assert all((one.mask != other.mask).mean() < 0.01 for one, other in pairs)


def test_heads_bring_their_own_calibration(make_predictor, tmp_path, image):
    folder = write_heads(make_predictor().model, tmp_path / "heads", calibration=Calibration(0.0, 2.0))
    base = make_predictor()
    [found] = base.with_heads(folder).segment(image, ["the ship"])
    assert found.score == pytest.approx(1 / (1 + np.exp(-2)))
    assert base.segment(image, ["the ship"])[0].score != found.score


def test_a_version_depends_on_weights_base_and_calibration(make_predictor, tmp_path):
    variants = [{}, {"seed": 2}, {"base": "random@00000001"}, {"calibration": Calibration(1.0, 0.5)}]
    versions = [
        checkpoint.version(write_heads(make_predictor().model, tmp_path / str(number), **variant))
        for number, variant in enumerate([*variants, {}])
    ]
    assert len(set(versions[:4])) == 4
    assert versions[0] == versions[4]


# What is no version of this base.


def test_heads_alone_are_no_model_and_say_what_they_belong_over(heads):
    with pytest.raises(BadCheckpoint, match=r"belong over the base random@00000000: load it"):
        checkpoint.load(heads)


def test_heads_over_another_base_are_refused_with_both_names(make_predictor, tmp_path):
    folder = write_heads(make_predictor().model, tmp_path / "heads", base="other@1")
    with pytest.raises(BadCheckpoint, match="over the base other@1, not over random@00000000"):
        make_predictor().with_heads(folder)


def test_a_whole_model_is_no_head(make_predictor, tmp_path):
    checkpoint.save(make_predictor().model, tmp_path, "card")
    with pytest.raises(BadCheckpoint, match="holds everything, not heads alone"):
        make_predictor().with_heads(tmp_path)


def cut_short(folder):
    weights = folder / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])


def without_weights(folder):
    (folder / checkpoint.WEIGHTS).unlink()


def change_weights(change):
    def spoil(folder):
        state = load_file(folder / checkpoint.WEIGHTS)
        change(state)
        save_file(state, folder / checkpoint.WEIGHTS)

    return spoil


def without_a_base(folder):
    config = json.loads((folder / checkpoint.CONFIG).read_text())
    del config["base"]
    (folder / checkpoint.CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_short, "damaged"),
        (without_weights, r"model\.safetensors is missing"),
        (change_weights(lambda state: state.pop(STATISTICS)), "1 missing: " + STATISTICS),
        (change_weights(lambda state: state.update(more=torch.zeros(1))), "1 unknown: more"),
        (change_weights(lambda state: state.update({STATISTICS: torch.zeros(3)})), "do not fit the preset"),
        (change_weights(lambda state: state[STATISTICS].fill_(torch.nan)), "are not all numbers"),
        (without_a_base, "holds heads over the base ''"),
    ],
)
def test_a_spoilt_file_is_refused_and_leaves_the_base_alone(make_predictor, heads, image, spoil, reason):
    base = make_predictor()
    before = drawn(base, image)
    spoil(heads)
    with pytest.raises(BadCheckpoint, match=reason):
        base.with_heads(heads)
    assert drawn(base, image) == before


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_training_that_went_astray_is_not_saved(model, tmp_path, value):
    with torch.no_grad():
        next(model.prompter.parameters()).fill_(value)
    with pytest.raises(BadCheckpoint, match="went astray"):
        checkpoint.save_heads(model, tmp_path, "card", BASE)
    assert not any(tmp_path.iterdir())


# As a checkpoint that commands are given.


@pytest.fixture(scope="module")
def shipped():
    return Predictor.from_preset("tiny")


def test_heads_over_the_shipped_weights_are_loaded_as_any_checkpoint(shipped, tmp_path, image):
    checkpoint.save_heads(shipped.model, tmp_path, "card", shipped.version, shipped.calibration)
    loaded = Predictor.from_checkpoint(tmp_path)
    assert (loaded.version, loaded.base_version) == (checkpoint.version(tmp_path), shipped.version)
    assert drawn(loaded, image) == drawn(shipped, image)
    assert (tmp_path / checkpoint.WEIGHTS).stat().st_size < 16_000_000


def test_heads_over_any_other_base_name_it(shipped, tmp_path):
    checkpoint.save_heads(shipped.model, tmp_path, "card", "tiny@elsewhere")
    with pytest.raises(BadCheckpoint, match="over the base tiny@elsewhere, which does not come with the package"):
        Predictor.from_checkpoint(tmp_path)
