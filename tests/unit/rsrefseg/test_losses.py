import pytest
import torch

from rsrefseg.comparison import traits_of
from rsrefseg.datasets.referring import Traits
from rsrefseg.losses import alignment_loss, choosing_loss, class_cells, dice_loss, finding_loss, traits_loss


def masks(*boxes, side=16):
    drawn = torch.zeros(len(boxes), side, side)
    for mask, (y, x, extent) in zip(drawn, boxes, strict=True):
        mask[y : y + extent, x : x + extent] = 1
    return drawn


def test_finding_the_right_cell_costs_less_than_finding_its_neighbour():
    truth, everywhere = masks((0, 0, 4)), torch.ones(1, 16, 16)
    right, beside = torch.full((1, 4, 4), -4.0), torch.full((1, 4, 4), -4.0)
    right[0, 0, 0] = beside[0, 0, 1] = 4.0
    assert finding_loss(right, truth, everywhere) < finding_loss(beside, truth, everywhere) / 10


def test_a_small_object_is_owed_as_much_as_a_large_one():
    everywhere, unsure = torch.ones(1, 64, 64), torch.zeros(1, 16, 16)
    small = finding_loss(unsure, masks((0, 0, 4), side=64), everywhere)
    large = finding_loss(unsure, masks((0, 0, 32), side=64), everywhere)
    assert small > large / 2


def test_what_nobody_knows_costs_nothing_to_find():
    truth, counted = masks((0, 0, 4)), torch.ones(1, 16, 16)
    counted[:, :, 8:] = 0
    quiet, loud = torch.full((1, 4, 4), -9.0), torch.full((1, 4, 4), -9.0)
    quiet[0, 0, 0] = loud[0, 0, 0] = 9.0
    loud[:, :, 2:] = 9.0
    assert float(finding_loss(loud, truth, counted)) == pytest.approx(float(finding_loss(quiet, truth, counted)))


def test_an_expression_that_names_nothing_is_only_asked_to_be_quiet():
    nothing, everywhere = torch.zeros(1, 16, 16), torch.ones(1, 16, 16)
    assert finding_loss(torch.full((1, 4, 4), -9.0), nothing, everywhere) < 1e-3
    assert finding_loss(torch.full((1, 4, 4), 9.0), nothing, everywhere) > 1


def ships(*boxes: tuple[int, int, int], side: int = 64) -> torch.Tensor:
    """The cells of one class of two, of which these are all there are: (1, 2, g, g)."""
    return class_cells(masks(*boxes, side=side).amax(0)[None].long() - 1, 2, (side // 4, side // 4))


@pytest.mark.parametrize("extent", [4, 32])
def test_one_object_too_many_costs_as_much_whether_it_is_small_or_large(extent):
    boxes = [(0, 0, 4), (32, 32, extent)]
    meant, weight = masks(boxes[0], side=64), torch.ones(1, 16, 16)
    found = torch.full((1, 16, 16), -9.0)
    found[0, 0, 0] = 9.0
    assert choosing_loss(found, meant, ships(*boxes), weight) < 1e-3
    found[0, 8 : 8 + extent // 4, 8 : 8 + extent // 4] = 9.0
    assert float(choosing_loss(found, meant, ships(*boxes), weight)) == pytest.approx(4.5, rel=0.01)


def test_who_chooses_owes_nothing_for_cells_of_another_kind():
    weight = torch.ones(1, 16, 16)
    found = torch.full((1, 16, 16), 9.0)
    assert choosing_loss(found, masks((0, 0, 4), side=64), ships((0, 0, 4)), weight) < 1e-3


def test_words_that_name_nothing_choose_among_nothing():
    found, weight = torch.full((1, 16, 16), 9.0), torch.ones(1, 16, 16)
    assert choosing_loss(found, torch.zeros(1, 64, 64), ships((0, 0, 4)), weight) == 0


def test_a_class_of_few_cells_is_not_drowned_by_one_of_many():
    classes = torch.full((1, 64, 64), -1)
    classes[:, :, 32:] = 0  # half of the image, and one cell of the other class
    classes[:, :4, :4] = 1
    looked_for = torch.ones(1, 2, dtype=torch.bool)
    right = torch.full((1, 2, 16, 16), -9.0)
    right[:, 0, :, 8:] = right[:, 1, 0, 0] = 9.0
    without = right.clone()
    without[:, 1, 0, 0] = -9.0
    missing = alignment_loss(without, classes, looked_for) - alignment_loss(right, classes, looked_for)
    assert missing > 9 * 2 / 256  # of 256 cells it would count as four at most: now as much as eleven


def test_perfect_overlap_has_no_dice_loss_and_none_has_almost_all():
    truth, everywhere = masks((2, 2, 8)), torch.ones(1, 16, 16)
    assert dice_loss(40 * (truth - 0.5), truth, everywhere) < 1e-3
    assert dice_loss(-40 * (truth - 0.5), truth, everywhere) > 0.95


def one_ship(colour: int) -> tuple[torch.Tensor, Traits]:
    """What an encoder would say that sees all of it: a ship over two cells of four, in the first of three colours."""
    seen = torch.zeros(1, 6, 1, 4)
    seen[0, 0, 0, :2] = torch.tensor([0.5, -0.5])
    seen[0, 3] = 20.0
    there = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    centre = torch.tensor([0.25, 0.5])[None, :, None, None].expand(1, 2, 1, 4)
    return traits_of(seen), Traits(centre, torch.zeros(1, 1, 4), torch.full((1, 1, 4), colour), there)


def test_traits_that_are_right_cost_nothing_wherever_nothing_is():
    assert traits_loss(*one_ship(colour=0)) < 1e-4


def test_a_colour_that_nobody_noted_costs_nothing_and_a_wrong_one_much():
    assert traits_loss(*one_ship(colour=-1)) < 1e-4
    assert traits_loss(*one_ship(colour=1)) > 1


def test_a_cell_that_takes_its_own_middle_for_the_objects_pays():
    read, truth = one_ship(colour=0)
    read = read.clone()
    read[:, 0] = torch.tensor([0.125, 0.375, 0.625, 0.875])
    assert traits_loss(read, truth) > 0.5
