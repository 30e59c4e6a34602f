from __future__ import annotations

import numpy as np
import pytest

from ml_backend.interval import beyond, interval
from rsrefseg.gate import _tail


@pytest.mark.parametrize("n", [2, 5, 12, 400])
def test_it_is_as_wide_as_the_gate_s(n: int):
    assert beyond(n) == pytest.approx(_tail(n, 0.025))


@pytest.mark.parametrize("tasks", [6, 15, 60])
def test_it_holds_the_truth_nearly_as_often_as_it_says_where_several_annotate_each_task(tasks: int):
    held = 0
    for seed in range(200):
        rng = np.random.default_rng((tasks, seed))
        values = rng.normal(0, 1, tasks).repeat(3) + rng.normal(0, 0.3, 3 * tasks)
        low, high = interval(values.reshape(tasks, 3).tolist())
        assert low is not None
        assert high is not None
        held += low < 0 < high
    assert held > 180


def test_of_few_tasks_none_is_given_however_many_annotations_they_have():
    assert interval([[0.1, 0.5, 0.7, 0.2]] * 4) == (None, None)
