import numpy as np
import pytest

from rsrefseg.stretch import percentiles, to_eight_bits

PERCENTS = (0.0, 1.0, 37.5, 99.0, 100.0)


@pytest.mark.parametrize(
    "levels",
    [
        np.arange(-500, 1_000),
        np.random.default_rng(0).normal(size=100_001) * 1e30,
        np.random.default_rng(1).normal(size=4_096) * 1e-40,
        np.random.default_rng(2).integers(0, 65_536, 50_000),
        np.array([0.0, -0.0, 3.0]),
        np.array([7.25]),
        np.full(1_000, -3.5),
    ],
    ids=["signed", "huge", "denormal", "16 bits", "zeros", "one", "plain"],
)
def test_the_percentiles_are_those_of_numpy_whatever_the_blocks(levels):
    levels = levels.astype(np.float32)
    parts = np.array_split(levels[None], min(3, levels.size), axis=1)
    assert percentiles(lambda: parts, PERCENTS) == pytest.approx(list(np.percentile(levels, PERCENTS)), rel=1e-12)


def test_what_is_beyond_the_percentiles_is_black_and_white():
    stretched = to_eight_bits(np.array([[-5.0, 0.0, 51.0, 100.0, 1e30]], np.float32), 0.0, 100.0)
    assert stretched.tolist() == [[0, 0, 130, 255, 255]]
