import numpy as np
import pytest

from rsrefseg.expressions import Grammar, Thing
from rsrefseg.wordings import mirrored, rewordings


@pytest.mark.parametrize(
    ("words", "across", "down"),
    [
        ("the top left ship", "the top right ship", "the bottom left ship"),
        ("the leftmost car", "the rightmost car", "the leftmost car"),
        ("The ship in the NORTHWEST corner", "the ship in the northeast corner", "the ship in the southwest corner"),
        ("the lowest tank", "the lowest tank", "the uppermost tank"),
        ("the northern-most pier", "the northern-most pier", "the southern-most pier"),
        ("the copyright sign", "the copyright sign", "the copyright sign"),
    ],
)
def test_sides_change_places_in_a_mirror(words: str, across: str, down: str):
    assert mirrored(words, "left-right") == across
    assert mirrored(words, "top-bottom") == down


def test_two_mirrors_undo_each_other():
    for mirror in ("left-right", "top-bottom"):
        for words in ("the top left ship", "all vehicles on the right", "the topmost pool"):
            assert mirrored(mirrored(words, mirror), mirror) == words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("all boats on the left", "all ships on the left"),
        ("the oil tank", "the storage tank"),
        ("the biggest airplane", "the largest airplane"),
        ("the ship closest to the bridge", "the ship nearest the bridge"),
        ("all the cars", "the cars"),
        ("every pond", "every lake"),
    ],
)
def test_what_means_the_same_is_known(words: str, expected: str):
    assert expected in rewordings(words)


@pytest.mark.parametrize("words", ["the police car", "the football field", "a car park", "the tank farm"])
def test_a_noun_within_another_is_left_alone(words: str):
    assert rewordings(words) == [words.removeprefix("the ") if words.startswith("the") else f"the {words}"]


def test_no_rewording_is_the_expression_itself_or_comes_twice():
    for words in ("", "ship", "the ship", "all ships", "the largest ship nearest the bridge"):
        found = rewordings(words)
        assert len({*found}) == len(found)
        assert words not in found
        assert "" not in found


def test_the_grammar_says_in_a_mirror_what_is_true_there():
    masks = np.zeros((2, 60, 60), bool)
    masks[0, 5:15, 5:15] = masks[1, 40:55, 40:50] = True

    def said(things: np.ndarray) -> dict[tuple[str, ...], tuple[int, ...]]:
        grammar = Grammar([Thing("ship", mask) for mask in things], np.random.default_rng(0))
        return {(one.expression,): one.indices for one in grammar.all() if one.kind == "position"}

    plain, turned = said(masks), said(masks[:, :, ::-1])
    shared = [words for (words,) in plain if (mirrored(words, "left-right"),) in turned]
    assert len(shared) >= 3
    assert all(plain[words,] == turned[mirrored(words, "left-right"),] for words in shared)
