import pytest

from rsrefseg.errors import BadRequest
from rsrefseg.tokenizer import Tokenizer


def test_case_and_spaces_do_not_matter():
    tokenizer = Tokenizer(32)
    assert tokenizer("  The SHIP ").tolist() == tokenizer("the ship").tolist()


def test_a_long_expression_is_cut_but_keeps_its_end(caplog):
    tokenizer = Tokenizer(32)
    ids = tokenizer("the ship " * 100)
    assert len(ids) == 32
    assert ids[-1] == tokenizer("ship")[-1]
    assert "expression cut" in caplog.messages


@pytest.mark.parametrize("nothing", ["", "   ", "\n\t"])
def test_an_empty_expression_is_refused_with_an_example(nothing):
    with pytest.raises(BadRequest, match="expression is empty"):
        Tokenizer(32)(nothing)


def test_words_of_any_alphabet_are_read():
    assert len(Tokenizer(32)("корабль 船 ⛵")) > 3
