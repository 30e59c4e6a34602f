import pytest

from ml_backend.demo_project import Sample, read_samples
from ml_backend.errors import StartFailed
from tests.factories import make_png


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(make_png())
    return tmp_path


def test_each_line_of_a_text_file_is_an_expression(folder):
    (folder / "a.txt").write_text("the ship\n\n  the pier \n")
    (folder / "b.txt").write_text("all tanks")
    assert read_samples(folder) == [
        Sample(folder / "a.png", "the ship"),
        Sample(folder / "a.png", "the pier"),
        Sample(folder / "b.png", "all tanks"),
    ]


def test_a_table_names_images_and_expressions(folder):
    (folder / "expressions.csv").write_text('image,expression\nb.png,"the ship, not the boat"\n')
    assert read_samples(folder) == [Sample(folder / "b.png", "the ship, not the boat")]


def test_a_table_from_a_spreadsheet_may_begin_with_a_mark(folder):
    (folder / "expressions.csv").write_text("image,expression\na.png,the ship\n", encoding="utf-8-sig")
    assert len(read_samples(folder)) == 1


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("file,words\na.png,the ship\n", "image,expression"),
        ("image,expression\nc.png,the ship\n", r"line 2.*c\.png"),
        ("image,expression\na.png,the ship\nb.png,\n", "line 3: the expression is empty"),
        ("image,expression\n", "holds no images"),
    ],
)
def test_a_table_that_will_not_do_is_told_where(folder, table, said):
    (folder / "expressions.csv").write_text(table)
    with pytest.raises(StartFailed, match=said):
        read_samples(folder)


def test_an_image_without_words_is_named_with_the_file_to_write(folder):
    (folder / "a.txt").write_text("the ship")
    with pytest.raises(StartFailed, match=r"b\.png has no expressions.*b\.txt"):
        read_samples(folder)


def test_an_empty_folder_and_a_missing_one_are_told_apart(tmp_path):
    with pytest.raises(StartFailed, match="holds no images"):
        read_samples(tmp_path)
    with pytest.raises(StartFailed, match="is not a folder"):
        read_samples(tmp_path / "nowhere")
