import pytest
import torch

from rsrefseg.comparison import MOST, Comparison, Wishes, agreed, traits_of

SHIP, BRIDGE, WATER, LEFT, LARGE, NEAR, RED, _ = torch.eye(8)
LEFTMOST, LARGEST, NEAREST, REDDEST = SHIP + LEFT, SHIP + LARGE, SHIP + NEAR, SHIP + RED


def logit(cosine: torch.Tensor) -> torch.Tensor:
    return 13 * cosine - 3


@pytest.fixture
def comparison():
    """One that was told what the words above want, by its own lesson."""
    told = Comparison(clip_dim=8, colours=2).eval()
    words = torch.stack([SHIP, LEFTMOST, LARGEST, NEAREST, REDDEST, BRIDGE])
    wanted, outright = torch.zeros(6, 9), torch.zeros(6, 5)
    wanted[1, 0], wanted[2, 2], wanted[3, 3] = -100.0, 36.0, -50.0
    outright[4, 2] = 1.5
    strictness = torch.tensor([-4.0, 4.0, 4.0, 4.0, -4.0, -4.0])
    landmarks = torch.zeros(6, 8)
    landmarks[3] = BRIDGE
    kinds = torch.stack([SHIP] * 5 + [BRIDGE])
    told.tell(words, kinds, landmarks, Wishes(wanted, strictness, outright))
    return told.requires_grad_(False)


@pytest.fixture
def clip():
    """Four cells in a row: water, a ship, a ship, a bridge."""
    return torch.stack([WATER, SHIP, SHIP, BRIDGE], dim=1)[None, :, None]


@pytest.fixture
def traits():
    """The right ship is larger and white, the left one red."""
    seen = torch.zeros(1, 5, 1, 4)
    seen[0, 2, 0, 2] = 1.0
    seen[0, 3, 0, 1] = seen[0, 4, 0, 2] = 9.0
    return traits_of(seen)


@pytest.mark.parametrize(("words", "right"), [(LEFTMOST, 1), (LARGEST, 2), (NEAREST, 2), (REDDEST, 1)])
def test_of_two_ships_the_one_that_is_meant_gains(comparison, clip, traits, words, right):
    gains = comparison(clip, traits, words[None], logit)[0, 0]
    assert gains[right] > gains[3 - right] + 1


def test_how_far_an_object_falls_short_does_not_matter(comparison, clip):
    three = torch.stack([SHIP, WATER, SHIP, SHIP], dim=1)[None, :, None]
    first, _, second, third = comparison(three, traits_of(torch.zeros(1, 5, 1, 4)), LEFTMOST[None], logit)[0, 0]
    assert first - second > MOST / 2
    assert second - third < 1


def test_cells_of_one_object_stand_and_fall_together(comparison):
    """The right ship is larger, but one of its two cells reads it as smaller than the left one."""
    row = torch.stack([SHIP, WATER, SHIP, SHIP], dim=1)[None, :, None]
    seen = torch.zeros(1, 5, 1, 4)
    seen[0, 0, 0, 2:] = torch.tensor([0.6, -0.6])  # both place its middle between them
    seen[0, 2, 0] = torch.tensor([0.5, 0.0, 1.4, 0.4])
    left, _, one, other = comparison(row, traits_of(seen), LARGEST[None], logit)[0, 0]
    assert min(one, other) > left + MOST / 2


def test_the_best_of_a_kind_loses_nothing_to_what_is_of_another_kind(comparison, clip, traits):
    gains = comparison(clip, traits, LEFTMOST[None], logit)[0, 0]
    assert gains[0] - gains[1] < 2  # the water lies farther left, which gains it next to nothing
    dry = clip.clone()
    dry[0, :, 0, 0] = BRIDGE
    other = comparison(dry, traits, LEFTMOST[None], logit)[0, 0]
    torch.testing.assert_close(gains[1:3], other[1:3], atol=0.05, rtol=0)


def test_words_that_single_nothing_out_leave_all_of_a_kind_alike(comparison, clip, traits):
    gains = comparison(clip, traits, SHIP[None], logit)[0, 0]
    torch.testing.assert_close(gains[1], gains[2], atol=0.05, rtol=0)


def test_each_expression_is_about_its_own_image(comparison, clip, traits):
    images, seen = torch.cat([clip, clip.flip(3)]), torch.cat([traits, traits])
    words = torch.stack([LEFTMOST, LARGEST])
    together = comparison(images, seen, words, logit)
    alone = [comparison(images[i : i + 1], seen[i : i + 1], words[i : i + 1], logit) for i in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_half_precision_around_it_takes_nothing_from_places(comparison, clip, traits):
    whole = comparison(clip, traits, LEFTMOST[None], logit)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(comparison(clip, traits, LEFTMOST[None], logit), whole)


def test_a_landmark_that_moves_takes_the_nearest_with_it(comparison, clip, traits):
    moved = torch.stack([BRIDGE, SHIP, SHIP, WATER], dim=1)[None, :, None]
    gains = comparison(moved, traits, NEAREST[None], logit)[0, 0]
    assert gains[1] > gains[2] + 1


def test_traits_are_of_the_object_and_not_of_the_cell():
    seen = torch.zeros(1, 5, 2, 4)
    seen[0, :2, 1, 0] = torch.tensor([2.0, -0.5])  # two cells to the right, half a cell up
    centre = traits_of(seen)[0, :2, 1, 0]
    torch.testing.assert_close(centre, torch.tensor([0.125 + 2 / 4, 0.75 - 0.5 / 2]))


def test_chances_of_the_colours_add_up_to_one():
    seen = torch.randn(2, 7, 3, 3)
    torch.testing.assert_close(traits_of(seen)[:, 3:].exp().sum(1), torch.ones(2, 3, 3))


def told_of(xs: list[float], sizes: list[float]) -> torch.Tensor:
    traits = torch.zeros(1, 5, 1, len(xs))
    traits[0, 0, 0], traits[0, 2, 0] = torch.tensor(xs), torch.tensor(sizes)
    return traits


def test_cells_that_mean_the_same_middle_agree_on_the_size():
    sizes = agreed(told_of([0.3, 0.31, *[0.9] * 6], [1.0, 1.2, *[0.1] * 6]), torch.ones(1, 1, 8))[0, 2, 0]
    torch.testing.assert_close(sizes[:3], torch.tensor([1.1, 1.1, 0.1]), atol=0.01, rtol=0)


def test_cells_of_another_kind_have_no_say_about_an_object():
    sizes = agreed(told_of([0.3, 0.31, 0.3], [1.0, 1.2, 9.0]), torch.tensor([[[1.0, 1.0, 0.0]]]))[0, 2, 0]
    torch.testing.assert_close(sizes[:2], torch.tensor([1.1, 1.1]), atol=0.01, rtol=0)


def test_small_objects_side_by_side_are_two_and_the_halves_of_a_large_one_are_one():
    apart = [5 / 16, 6 / 16, *[0.9] * 14]  # a cell between the middles
    small, large = (
        agreed(told_of(apart, [s, s + 0.4, *[0.0] * 14]), torch.ones(1, 1, 16))[0, 2, 0] for s in (0.0, 2.5)
    )
    assert small[1] - small[0] > 0.3
    assert large[1] - large[0] < 0.1


def test_where_nothing_fits_every_cell_keeps_what_it_read():
    traits = torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(agreed(traits, torch.zeros(2, 3, 3)), traits)
