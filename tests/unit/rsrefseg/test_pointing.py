import numpy as np
import pytest
import torch

from rsrefseg.datasets.gestures import POINTS, point_at
from rsrefseg.errors import BadPointing
from rsrefseg.expressions import Referral
from rsrefseg.features import BOTTOM_RIGHT, INSIDE, NOT_A_POINT, OUTSIDE, TOP_LEFT, PointPrompts
from rsrefseg.model import RSRefSeg
from rsrefseg.places import cells_in_box, cells_meant, said_or_alike
from rsrefseg.pointing import Pointing
from rsrefseg.predictor import point_prompts
from rsrefseg.tokenizer import Tokenizer

CLICK = Pointing(inside=((0.25, 0.5),))
BOX = Pointing(box_xyxy=(0.125, 0.25, 0.5, 0.75))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "a point or a box"),
        ({"inside": ((1.5, 0.5),)}, "shares"),
        ({"box_xyxy": (0.1, 0.1, 30.0, 40.0)}, "shares"),
        ({"box_xyxy": (0.5, 0.1, 0.5, 0.4)}, "left, top, right, bottom"),
    ],
)
def test_a_pointing_that_points_nowhere_is_refused(fields, named):
    with pytest.raises(BadPointing, match=named):
        Pointing(**fields)


@pytest.mark.parametrize("pointing", [CLICK, BOX, Pointing(((0.25, 0.5), (0.5, 0.5)), ((0.75, 0.25),))])
def test_without_words_published_models_draw_sams_own_mask(small_b, pointing):
    torch.manual_seed(0)
    model = RSRefSeg(small_b).eval()
    with torch.no_grad():  # as in SAM, which has one position matrix
        model.image_encoder.frequencies.copy_(model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    size = small_b.image_size
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    features = model.encode_image(image)
    ours = model.decode(features, None, torch.tensor([0]), pointed=point_prompts([pointing], torch.device("cpu")))
    places = [*pointing.inside, *pointing.outside]
    labels = [1] * len(pointing.inside) + [0] * len(pointing.outside)
    pixels = torch.tensor([places]) * size - 0.5  # SAM counts pixels and looks at their middles
    box = torch.tensor([pointing.box_xyxy or (0.0,) * 4]) * size - 0.5
    sparse, dense = model.prompt_encoder(
        points=(pixels, torch.tensor([labels])) if places else None,
        boxes=box if pointing.box_xyxy else None,
        masks=None,
    )
    theirs, _ = model.mask_decoder(features.sam, model.prompt_encoder.get_dense_pe(), sparse, dense, False)
    torch.testing.assert_close(ours.low_res_logits, theirs[:, 0], atol=1e-4, rtol=1e-4)


def test_words_and_places_together_move_the_mask_and_places_alone_need_no_words(predictor, image):
    words = ["the ship", "the ship", "the ship", ""]
    found = predictor.segment(image, words, [None, CLICK, BOX, BOX])
    assert [one.expression for one in found] == words
    ious = [one.predicted_iou for one in found]
    assert len(set(ious)) == 4
    alone = [
        predictor.segment(image, [said], [where])[0] for said, where in zip(words, [None, CLICK, BOX, BOX], strict=True)
    ]
    assert [one.predicted_iou for one in alone] == pytest.approx(ious, abs=1e-5)


def test_as_many_pointings_as_expressions_are_needed(predictor, image):
    with pytest.raises(ValueError, match="1 pointings for 2 expressions"):
        predictor.segment(image, ["a", "b"], [CLICK])


def test_the_prompts_name_each_place_and_fill_up_as_sam_does():
    prompts = point_prompts([Pointing(((0.1, 0.2),), ((0.3, 0.4),))], torch.device("cpu"))
    assert prompts.kinds.tolist() == [[INSIDE, OUTSIDE, NOT_A_POINT]]
    assert point_prompts([BOX], torch.device("cpu")).kinds.tolist() == [[TOP_LEFT, BOTTOM_RIGHT]]


def test_invented_gestures_lie_on_what_is_named_and_mean_a_part_of_it(things):
    members = tuple(i for i, thing in enumerate(things) if thing.category == things[0].category)
    named = np.any([things[i].mask for i in members], axis=0)
    referral = Referral("all of them", members, "plural", ())
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(300):
        gesture = point_at(things, referral, named.shape, rng)
        assert len(gesture.points) == len(gesture.kinds) == POINTS
        for (x, y), kind in zip(gesture.points, gesture.kinds, strict=True):
            if kind == INSIDE:
                assert gesture.mask[int(y * 100), int(x * 100)]
            if kind == OUTSIDE:
                assert not gesture.mask[int(y * 100), int(x * 100)]
        assert gesture.mask.any()
        assert not (gesture.mask & ~named).any()
        if set(gesture.kinds) == {NOT_A_POINT}:
            assert gesture.said
            assert (gesture.mask == named).all()
        shapes.add((gesture.kinds, gesture.said))
    assert len(shapes) == 6, "nothing, a point, a box, each but the first without words too, and a point outside"


def test_nobody_points_at_what_is_not_there(things):
    gesture = point_at(things, Referral("the lake", (), "absent", ()), (100, 100), np.random.default_rng(0))
    assert set(gesture.kinds) == {NOT_A_POINT}
    assert not gesture.mask.any()


def grid_of(cells):
    return ["".join("#" if cell else "." for cell in row) for row in cells.tolist()]


def test_a_box_searches_the_cells_it_touches_and_a_point_speaks_for_the_one_it_hits():
    box = point_prompts([Pointing(box_xyxy=(0.3, 0.5, 0.6, 0.74))], torch.device("cpu"))
    assert grid_of(cells_in_box(box, (4, 4))[0]) == ["....", "....", ".##.", "...."]
    assert (cells_meant(box, (4, 4)) == cells_in_box(box, (4, 4))).all()
    point = point_prompts([Pointing(inside=((1.0, 0.5),), outside=((0.0, 0.0),))], torch.device("cpu"))
    assert grid_of(cells_meant(point, (4, 4))[0]) == ["....", "....", "...#", "...."]
    assert cells_in_box(point, (4, 4)).all()


def test_a_model_taught_from_nothing_looks_for_what_is_like_the_place(model, predictor, image):
    inside, elsewhere = (predictor.segment(image, [""], [Pointing(((x, 0.5),))])[0] for x in (0.2, 0.8))
    assert inside.predicted_iou != elsewhere.predicted_iou


MASK = np.zeros((100, 100), bool)
MASK[10:30, 10:30] = MASK[10:30, 60:80] = MASK[60:90, 10:30] = True


@pytest.mark.parametrize(
    ("pointing", "kept"),
    [
        (Pointing(inside=((0.2, 0.2),)), [(10, 10)]),
        (Pointing(inside=((0.5, 0.2),)), [(10, 60)]),
        (Pointing(inside=((0.2, 0.2), (0.7, 0.2))), [(10, 10), (10, 60)]),
        (Pointing(outside=((0.2, 0.2),)), [(10, 60), (60, 10)]),
        (Pointing(outside=((0.5, 0.5),)), [(10, 10), (10, 60), (60, 10)]),
        (Pointing(box_xyxy=(0.05, 0.05, 0.9, 0.4)), [(10, 10), (10, 60)]),
        (Pointing(inside=((0.7, 0.2),), box_xyxy=(0.05, 0.05, 0.9, 0.4)), [(10, 60)]),
        (Pointing(box_xyxy=(0.35, 0.05, 0.5, 0.4)), []),
    ],
)
def test_of_a_mask_remains_what_the_gesture_means(pointing, kept):
    narrowed = pointing.narrow(MASK)
    assert not (narrowed & ~MASK).any()
    assert [(y, x) for y, x in ((10, 10), (10, 60), (60, 10)) if narrowed[y, x]] == kept
    assert MASK.sum() == 1400, "the mask itself is not changed"


def test_who_points_nowhere_gets_the_same_mask_beside_those_who_point(model, small):
    model = model.double()
    image = model.encode_image(torch.rand(1, 3, small.image_size, small.image_size, dtype=torch.float64))
    tokenizer = Tokenizer(small.text.positions)
    text = model.encode_text([tokenizer(words) for words in ("the ship", "all tanks", "the jet")])
    about = torch.zeros(3, dtype=torch.long)
    nowhere = PointPrompts(torch.zeros(3, 2, 2), torch.full((3, 2), NOT_A_POINT))
    nowhere.kinds[1], nowhere.points[1] = torch.tensor([TOP_LEFT, BOTTOM_RIGHT]), torch.tensor([[0.1, 0.1], [0.6, 0.6]])
    silent = model.decode(image, text, about).low_res_logits
    mixed = model.decode(image, text, about, pointed=nowhere).low_res_logits
    torch.testing.assert_close(mixed[[0, 2]], silent[[0, 2]], atol=1e-9, rtol=0)
    assert (mixed[1] - silent[1]).abs().max() > 1e-6


def test_a_place_stands_for_the_words_of_those_who_said_none(model, small):
    image = model.encode_image(torch.rand(1, 3, small.image_size, small.image_size))
    tokenizer = Tokenizer(small.text.positions)
    text = model.encode_text([tokenizer("the ship"), tokenizer("all tanks")])
    boxes, about = point_prompts([BOX, BOX], torch.device("cpu")), torch.zeros(2, dtype=torch.long)
    meant = said_or_alike(text, torch.tensor([True, False]), image.clip, about, boxes)
    together = model.decode(image, meant, about, pointed=boxes).low_res_logits
    alone = model.decode(image, None, about[:1], pointed=point_prompts([BOX], torch.device("cpu"))).low_res_logits
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)
    assert (meant.pooled[0] == text.pooled[0]).all()
