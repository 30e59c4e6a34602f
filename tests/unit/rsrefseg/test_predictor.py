import cv2
import numpy as np
import pytest
import torch

from rsrefseg import predictor as predictor_module
from rsrefseg.errors import BadImage, BadRequest, CannotCompile
from rsrefseg.model import RSRefSeg
from rsrefseg.predictor import Predictor

WORDS = ["the ship", "the large airplane on the left", "all tanks at the pier", "x"]


def test_masks_have_the_images_own_size(predictor, image):
    [found] = predictor.segment(image, ["the ship"])
    assert found.mask.shape == (90, 130)
    assert found.mask.dtype == bool


def test_scores_stay_between_nought_and_one(predictor, image):
    for found in predictor.segment(image, ["the ship", "all tanks", "nothing at all"]):
        assert 0 <= found.score <= 1
        assert 0 <= found.predicted_iou <= 1


def test_asking_an_encoded_image_equals_asking_the_image(predictor, image):
    words = ["the ship", "the large airplane on the left"]
    directly = predictor.segment(image, words)
    later = predictor.segment(predictor.encode(image), words)
    assert [(a.mask == b.mask).all() for a, b in zip(directly, later, strict=True)] == [True, True]


def test_answers_keep_the_order_of_the_questions(predictor, image):
    words = ["b", "a", "c"]
    assert [found.expression for found in predictor.segment(image, words)] == words


def test_no_questions_give_no_answers(predictor, image):
    assert predictor.segment(image, []) == []


def test_one_string_is_not_taken_for_many_letters(predictor, image):
    with pytest.raises(TypeError, match="list of strings"):
        predictor.segment(image, "ship")


def test_an_empty_expression_is_refused(predictor, image):
    with pytest.raises(BadRequest, match="expression is empty"):
        predictor.segment(image, ["the ship", " "])


def test_refused_words_do_not_cost_an_encoding(predictor, image, encoded):
    with pytest.raises(BadRequest):
        predictor.segment(image, [""])
    assert encoded == []


def test_two_hundred_words_are_cut_with_a_warning_and_answered(predictor, image, caplog):
    [found] = predictor.segment(image, ["the ship left of the pier " * 40])
    assert found.mask.shape == (90, 130)
    assert caplog.messages == ["expression cut"]


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (3, 700, 3), (900, 2, 3), (20_000, 50, 3), (50, 20_000, 3), (1, 70_000, 3)]
)
def test_odd_sizes_are_answered(predictor, shape):
    [found] = predictor.segment(np.zeros(shape, np.uint8), ["the ship"])
    assert found.mask.shape == shape[:2]


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (np.zeros((5, 5), np.uint8), r"np\.dstack\(\[grey\] \* 3\)"),
        (np.zeros((5, 5, 1), np.uint8), r"np\.dstack\(\[grey\] \* 3\)"),
        (np.zeros((5, 5, 4), np.uint8), r"image\[:, :, :3\]"),
        (np.zeros((3, 5, 5), np.uint8), r"image\.transpose\(1, 2, 0\)"),
        (np.zeros((0, 5, 3), np.uint8), "it has no pixels"),
        (np.zeros((2, 5, 5, 3), np.uint8), "of one image"),
        (np.zeros((5, 5, 3), np.uint16), r"scale it to 0 \.\.\. 255"),
        (np.zeros((5, 5, 3), np.float32), r"scale it to 0 \.\.\. 255"),
        (np.full((5, 5, 3), np.nan), "without NaN"),
    ],
)
def test_what_is_not_an_rgb_image_is_refused_with_what_it_is_and_how_to_mend_it(predictor, wrong, remedy):
    with pytest.raises(BadImage, match=rf"uint8 RGB, this is \(.*{remedy}"):
        predictor.encode(wrong)


def test_a_list_is_not_an_image(predictor):
    with pytest.raises(BadImage, match=r"not list: np\.asarray"):
        predictor.encode([[[0, 0, 0]]])


def test_any_memory_layout_is_read(predictor, image):
    turned = np.asfortranarray(image)[::-1]
    assert close(predictor.segment(turned, WORDS), predictor.segment(np.ascontiguousarray(turned), WORDS))


# Encode once, ask often.


@pytest.fixture
def encoded(predictor):
    """How many images each run of the encoder had."""
    runs = []
    predictor.model.image_encoder.register_forward_hook(lambda _module, given, _features: runs.append(len(given[0])))
    return runs


@pytest.fixture
def images():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((90, 130), (200, 60), (128, 128))]


def close(some, others):
    return all(
        a.expression == b.expression and abs(a.score - b.score) < 1e-5 and (a.mask != b.mask).mean() < 1e-3
        for a, b in zip(some, others, strict=True)
    )


def test_a_second_question_about_an_image_does_not_encode_it_again(predictor, image, encoded):
    predictor.segment(image, ["the ship"])
    predictor.segment(image.copy(), ["the pier"])
    assert encoded == [1]
    use = predictor.cache.use
    assert (use.hits, use.misses, use.images) == (1, 1, 1)


def test_one_pixel_more_or_less_is_another_image(predictor, encoded):
    image = np.zeros((128, 128, 3), np.uint8)
    predictor.encode(image)
    image[5, 7, 1] = 1
    predictor.encode(image)
    assert encoded == [1, 1]


def test_a_cached_image_keeps_its_own_size(predictor, image):
    """A plain colour is the same square whatever its size was."""
    for shape in ((90, 130, 3), (40, 30, 3)):
        [found] = predictor.segment(np.full(shape, 7, np.uint8), ["the ship"])
        assert found.mask.shape == shape[:2]


def test_other_weights_do_not_answer_from_the_cache_of_these(predictor, image, encoded):
    predictor.encode(image)
    predictor.base_version = "random@00000001"
    predictor.encode(image)
    assert encoded == [1, 1]


def test_nothing_is_kept_where_there_is_no_room(model, image):
    predictor = Predictor(model, "random@00000000", cache_bytes=0)
    predictor.encode(image)
    predictor.encode(image)
    use = predictor.cache.use
    assert (use.hits, use.misses, use.images, use.bytes) == (0, 2, 0, 0)


def test_several_images_are_encoded_as_each_alone(predictor, model, images, encoded, monkeypatch):
    monkeypatch.setattr(predictor_module, "_IMAGES_AT_ONCE", {"cpu": 2})
    together = predictor.encode_all([*images, images[0]])
    assert encoded == [2, 1]
    assert [embedding.size_hw for embedding in together] == [(90, 130), (200, 60), (128, 128), (90, 130)]
    alone = Predictor(model, "alone")
    for embedding, image in zip(together, images, strict=False):
        for part, expected in zip(embedding.features, alone.encode(image).features, strict=True):
            assert (part - expected).abs().max() < 1e-5
    assert predictor.cache.use.bytes == sum(part.nbytes for one in together[:3] for part in one.features)


def test_no_images_give_no_embeddings(predictor):
    assert predictor.encode_all([]) == []


@pytest.mark.parametrize(("expressions", "masks"), [(1, 1), (2, 3), (4, 2), (32, 16)])
def test_answers_do_not_depend_on_what_is_asked_beside_them(predictor, image, monkeypatch, expressions, masks):
    alone = [found for words in WORDS for found in predictor.segment(image, [words])]
    monkeypatch.setattr(predictor_module, "_EXPRESSIONS_AT_ONCE", expressions)
    monkeypatch.setattr(predictor_module, "_MASKS_AT_ONCE", {"cpu": masks})
    assert close(predictor.segment(image, WORDS), alone)
    assert close(predictor.segment(image, WORDS[::-1]), alone[::-1])


# Precision.


@pytest.fixture(params=["tiny", "b"])
def drawn(request, small, small_b):
    """Low-resolution logits by precision, of a small model of either kind whose masks are decided."""

    def draw(dtype):
        torch.manual_seed(3)
        model = RSRefSeg(small if request.param == "tiny" else small_b)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.merge_adapters()
        predictor = Predictor(
            model, "random", dtype=dtype, tokenizer=lambda words: torch.arange(3, 4 + len(words.split()))
        )
        square = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = cv2.resize(square, (208, 208))
        features = predictor.encode(image).features
        with torch.inference_mode():
            text = predictor.model.encode_text([predictor.tokenizer(words) for words in WORDS])
            decoded = predictor.model.decode(features, text, torch.zeros(len(WORDS), dtype=torch.long))
        return predictor, features, decoded.low_res_logits, predictor.segment(image, WORDS)

    return draw


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_draws_the_same_masks_but_for_undecided_pixels(drawn, dtype):
    """Logits move by less than 5 % of their range, and masks only where the logits are that near to nought."""
    _, _, exact, segments = drawn("float32")
    _, features, logits, halves = drawn(dtype)
    assert features.sam.dtype == features.clip.dtype == logits.dtype == getattr(torch, dtype)
    moved = (logits.float() - exact).abs().max()
    assert 0 < moved < 0.05 * (exact.max() - exact.min())
    assert ((logits > 0) == (exact > 0))[exact.abs() > moved].all()
    for half, full in zip(halves, segments, strict=True):
        assert (half.mask != full.mask).mean() < 0.02
        assert abs(half.predicted_iou - full.predicted_iou) < 0.05


def test_what_half_precision_would_spoil_stays_in_single(drawn):
    predictor, *_ = drawn("bfloat16")
    state = predictor.model.state_dict()
    wide = {name.rpartition(".")[2] for name, value in state.items() if value.dtype == torch.float32}
    assert {"logit_scale", "logit_bias", "running_mean", "running_var", "frequencies"} <= wide
    assert state["prompter.prompter_down_channel.conv.weight"].dtype == torch.bfloat16
    assert sum(value.dtype == torch.bfloat16 for value in state.values()) > len(state) / 2


def test_an_unknown_precision_lists_those_there_are(model):
    with pytest.raises(BadRequest, match="there are: float32, bfloat16, float16"):
        Predictor(model, "random@00000000", dtype="float8")


def test_a_compiled_encoder_answers_the_same(model, image):
    plain = Predictor(model, "random@00000000").segment(image, WORDS)
    predictor = Predictor(model, "random@00000000", compile=True)
    assert predictor.model.image_encoder._compiled_call_impl is not None
    with torch.compiler.set_stance("force_eager"):  # what the compiler writes is torch's, and takes a minute
        assert close(predictor.segment(image, WORDS), plain)


def test_a_machine_without_a_compiler_is_told_so(predictor, image, monkeypatch):
    def fail(_pixels):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")  # as torch 2.14 says it

    monkeypatch.setattr(predictor.model.image_encoder, "forward", fail)
    with pytest.raises(CannotCompile, match=r"install g\+\+, or leave compile out"):
        predictor.encode(image)
