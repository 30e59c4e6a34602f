from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_backend.brush import HEADER_BITS, decode, encode
from ml_backend.tokens import HEAD_BITS, SPAN_BITS, VALUE_BITS, Layout, Reader, token_starts

USUAL = (3, 4, 8, 16)


def one_by_one(data: bytes, layout: Layout, first: int) -> list[int]:
    """Where tokens begin, found bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in data) + "0" * 64
    starts, at = [], first
    while at < len(data) * 8:
        starts.append(at)
        width = layout.count_bits[int(bits[at + 1 : at + HEAD_BITS], 2)]
        count = int(bits[at + HEAD_BITS : at + HEAD_BITS + width], 2) + 1
        at += HEAD_BITS + width + VALUE_BITS * (1 if bits[at] == "1" else count)
    return starts


@settings(max_examples=200)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3000),
    st.sampled_from([USUAL, (1, 1, 1, 1), (16, 16, 16, 16), (16, 1, 2, 3)]),
    st.sampled_from([64, 200, 1024, 16_384]),
    st.floats(0, 1),
)
def test_any_bytes_have_the_tokens_that_a_reader_from_the_start_finds(
    seed: int, size: int, count_bits: tuple[int, ...], block_bits: int, evenness: float
) -> None:
    rng = np.random.default_rng(seed)
    data = np.where(rng.random(size) < evenness, rng.choice([0, 255, 0x9F]), rng.integers(0, 256, size))
    stream, layout = data.astype(np.uint8).tobytes(), Layout(count_bits)
    found = token_starts(Reader(stream, layout), 5, block_bits)
    assert found.tolist() == one_by_one(stream, layout, 5)


@pytest.mark.parametrize("period", [1, 2, 3, 5])
def test_readers_that_never_fall_into_step_change_nothing(period: int) -> None:
    mask = np.arange(600 * 601).reshape(600, 601) // period % 2 == 0
    stream = bytes(encode(mask))
    found = token_starts(Reader(stream, Layout(USUAL)), HEADER_BITS, 2048)
    assert found.tolist() == one_by_one(stream, Layout(USUAL), HEADER_BITS)


@pytest.mark.parametrize("count_bits", [USUAL, (1, 1, 1, 1)])
def test_a_stream_made_to_be_slow_takes_no_longer_than_one_token_after_the_other(count_bits: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8).tobytes()
    began = time.process_time()
    token_starts(Reader(data, Layout(count_bits)), HEADER_BITS)
    assert time.process_time() - began < 2


def test_the_longest_stream_and_token_fit_the_numbers() -> None:
    assert SPAN_BITS + HEAD_BITS + 16 + VALUE_BITS * (1 << 16) < 2**31
    assert decode(encode(np.ones((1, 1), bool)), (1, 1)).all()
