import io

from rich.console import Console

from rsrefseg.evaluate import Evaluation
from rsrefseg.results import Result
from rsrefseg.score_table import score_table


def test_the_table_names_every_row_and_fits_a_terminal():
    results = [
        Result("a", "a", 3, 4, "[Expressway-Service-area]", "position", 0.5, 0.1),
        Result("b", "b", 1, 4, "ship", None, 0.5, 0.1),
    ]
    page = io.StringIO()
    Console(file=page, width=80).print(score_table(Evaluation.of(results)))
    lines = page.getvalue().splitlines()
    cells = [line.split() for line in lines if line.strip()]
    assert ["position", "1", "75.0", "75.0", "100.0", "100.0", "100.0", "0.0", "0.0"] in cells
    assert ["all", "2", "50.0", "50.0", "50.0", "50.0", "50.0", "0.0", "0.0"] in cells
    assert any(row[0].startswith("[Expressway") for row in cells)
    assert any(line.startswith("95 % intervals: oIoU 25.0 to 75.0") for line in lines)
