import pytest
from sentencepiece import SentencePieceProcessor

from rsrefseg.errors import BadCheckpoint, BadRequest
from rsrefseg.presets import B
from rsrefseg.tokenizer import SiglipTokenizer, Tokenizer, tokenizer_for


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


@pytest.fixture
def siglip(words):
    return SiglipTokenizer(words, 64)


@pytest.fixture
def pieces(words):
    """The pieces of a text that is clean already, and the end; what transformers 5.23 gives for each text below."""
    processor = SentencePieceProcessor(model_file=str(words))
    return lambda clean: [*processor.encode(clean), 1]


@pytest.mark.parametrize(
    ("expression", "clean"),
    [
        ("the ship at the pier", "the ship at the pier"),
        ("The SHIP, at the Pier!", "the ship at the pier"),
        ("  the\n ship\t", "the ship"),
        ("the top-left ship", "the topleft ship"),
        ("storage_tank", "storagetank"),
        ("(the) 'ship'", "the ship"),
        ("- the ship", "the ship"),
        ("ship &amp; pier", "ship amp pier"),
        ("the ship\u2019s pier", "the ship\u2019s pier"),
    ],
)
def test_siglip_reads_what_its_published_tokenizer_reads(siglip, pieces, expression, clean):
    assert siglip(expression).tolist() == pieces(clean)


def test_siglips_expressions_are_not_padded(siglip):
    assert len(siglip("the ship")) < len(siglip("the ship at the pier"))
    assert siglip("the ship").tolist().count(1) == 1


def test_siglip_cuts_at_its_positions_and_keeps_the_end(siglip, caplog):
    ids = siglip("the ship " * 100)
    assert len(ids) == B.text.positions == 64
    assert ids.tolist().count(1) == 1
    assert ids[-1] == 1
    assert "expression cut" in caplog.messages


def test_sixty_three_pieces_are_not_cut(siglip, caplog):
    assert len(siglip("the")) == 2
    assert len(siglip("the " * 63)) == 64
    assert not caplog.messages


@pytest.mark.parametrize("nothing", ["", " ", "?!", "--"])
def test_punctuation_alone_is_empty_to_siglip(siglip, nothing):
    with pytest.raises(BadRequest, match="expression is empty"):
        siglip(nothing)


def test_a_file_that_is_no_sentencepiece_model_is_named(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"words")
    with pytest.raises(BadCheckpoint, match=r"spiece\.model is not a sentencepiece model"):
        SiglipTokenizer(tmp_path / "spiece.model", 64)


def test_siglips_tower_needs_its_words():
    with pytest.raises(BadCheckpoint, match=r"no spiece\.model was given"):
        tokenizer_for(B.text, None)
