"""Charts have axes with round numbers, and each dot where it belongs."""

from __future__ import annotations

import pytest

from ml_backend import charts
from ml_backend.charts import Dot, lay_out


def of(*scores: float) -> charts.Chart:
    dots = [Dot(float(x), y, "passed", "") for x, y in enumerate(scores)]
    return lay_out(dots, [(0.0, "0"), (10.0, "10")], "s", "x", "y")


@pytest.mark.parametrize(
    ("scores", "marks"),
    [
        ((40.0, 45.0), ["40", "42", "44", "46"]),
        ((43.2,), ["43", "43.5"]),
        ((0.0, 100.0), ["0", "50", "100"]),
        ((39.99, 40.01), ["39.5", "40", "40.5"]),
        ((12.0, 61.0), ["0", "20", "40", "60", "80"]),
    ],
)
def test_the_axis_has_a_few_round_numbers_around_the_scores(scores: tuple[float, ...], marks: list[str]) -> None:
    assert [tick.label for tick in of(*scores).y_ticks] == marks


def test_dots_lie_between_the_marks_around_them_and_within_the_frame() -> None:
    chart = of(41.0, 44.0, 38.0)
    heights = {tick.label: tick.at for tick in chart.y_ticks}
    first, best, worst = chart.places
    assert best.y < first.y < worst.y
    assert heights["42"] < first.y < heights["40"]
    assert [place.x for place in chart.places] == sorted(place.x for place in chart.places)
    for place in chart.places:
        assert charts.LEFT <= place.x <= charts.WIDTH - charts.RIGHT
        assert charts.TOP <= place.y <= charts.HEIGHT - charts.BOTTOM
    assert (chart.x_ticks[0].at, chart.x_ticks[-1].at) == (charts.LEFT, charts.WIDTH - charts.RIGHT)


def test_one_moment_is_in_the_middle() -> None:
    [place] = lay_out([Dot(5.0, 1.0, "passed", "")], [], "s", "x", "y").places
    assert place.x == (charts.LEFT + charts.WIDTH - charts.RIGHT) / 2


def test_the_line_leaves_out_what_is_not_joined() -> None:
    dots = [Dot(0, 1, "passed", ""), Dot(1, 2, "refused", "", joined=False), Dot(2, 3, "champion", "")]
    assert len(lay_out(dots, [], "s", "x", "y").line.split()) == 2
