from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from label_studio_sdk.converter.brush import decode_rle, encode_rle, mask2rle

from ml_backend.brush import decode, encode

EIGHT = [0, 0, 1, 0, 57, 27, 254, 71, 0, 191, 255, 124, 2, 255, 253, 240, 11, 255, 249, 156, 0]
"""Rows 2 to 4 and columns 2 to 5 of 8 x 8 pixels, as Label Studio 1.23.2 stores them."""

masks = npst.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def eight() -> np.ndarray:
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:6] = True
    return mask


def blobs(size_hw: tuple[int, int], share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(size_hw) < share


def soft_edges(alpha: np.ndarray) -> list[int]:
    """What the editor saves: colour and alpha differ, and single values are written one by one."""
    rgba = np.zeros((*alpha.shape, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 255, alpha
    return encode_rle(rgba.flatten())


def literal(values: list[int]) -> list[int]:
    """What the editor's encoder may write and the SDK's never does: tokens of many single values."""
    bits = f"{len(values):032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
    for start in range(0, len(values), 256):
        part = values[start : start + 256]
        bits += "0" + "10" + f"{len(part) - 1:08b}" + "".join(f"{value:08b}" for value in part)
    bits += "0" * (8 - len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def tokens_of(values: list[int], widths: list[int], rng: np.random.Generator) -> list[int]:
    """Values as tokens of any kind that says the same, chosen by chance."""
    bits = f"{len(values):032b}" + "00111" + "".join(f"{width - 1:04b}" for width in widths)
    at = 0
    while at < len(values):
        which = int(rng.integers(4))
        most = 1 << widths[which]
        same = next((n for n in range(1, len(values) - at) if values[at + n] != values[at]), len(values) - at)
        repeat = bool(rng.integers(2))
        count = int(rng.integers(1, min(most, same if repeat else len(values) - at, 50) + 1))
        bits += f"{repeat:d}{which:02b}{count - 1:0{widths[which]}b}"
        bits += "".join(f"{value:08b}" for value in values[at : at + (1 if repeat else count)])
        at += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def test_the_known_mask_is_written_and_read_as_label_studio_does() -> None:
    assert encode(eight()) == EIGHT
    assert np.array_equal(decode(EIGHT, (8, 8)), eight())


@given(masks)
def test_any_mask_comes_back_and_equals_the_sdk_byte_for_byte(mask: np.ndarray) -> None:
    written = encode(mask)
    assert written == mask2rle(mask.astype(np.uint8) * 255)
    assert np.array_equal(decode(written, mask.shape), mask)


def test_a_thousand_random_masks_equal_the_sdk_byte_for_byte_and_come_back() -> None:
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        size_hw = (int(rng.integers(1, 48)), int(rng.integers(1, 48)))
        mask = np.repeat(blobs(size_hw, rng.random() ** 2, seed), rng.integers(1, 9), axis=1)
        written = encode(mask)
        assert written == mask2rle(mask.astype(np.uint8) * 255), seed
        assert np.array_equal(decode(written, mask.shape), mask), seed


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((300, 300), bool),
        np.ones((300, 300), bool),
        np.pad(np.ones((1, 1), bool), ((150, 149), (0, 163))),
        blobs((257, 401), 0.0001),
        blobs((257, 401), 0.5),
        blobs((1, 70_000), 0.00005),
        np.repeat([True, False], 16_384)[None],
        np.repeat([True, False], 16_385)[None],
    ],
    ids=["empty", "full", "one pixel", "long runs", "noise", "one row", "exactly 65536", "just over 65536"],
)
def test_runs_longer_than_65536_values_are_split_as_the_sdk_splits_them(mask: np.ndarray) -> None:
    written = encode(mask)
    assert written == mask2rle(mask.astype(np.uint8) * 255)
    assert np.array_equal(decode(written, mask.shape), mask)


def test_soft_edges_belong_to_the_mask_from_the_middle_on() -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (31, 17)).astype(np.uint8)
    assert np.array_equal(decode(soft_edges(alpha), (31, 17)), alpha >= 128)


def test_large_soft_edges_are_read_as_the_sdk_reads_them() -> None:
    rows, columns = np.ogrid[:120, :150]
    far = np.hypot(rows - 60, columns - 75) * 3 + blobs((120, 150), 0.3) * 7
    rle = soft_edges(np.clip(far, 0, 255).astype(np.uint8))
    read = decode_rle(rle).reshape(120, 150, 4)[..., 3] >= 128
    assert np.array_equal(decode(rle, (120, 150)), read)


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(1, 40)), min_size=1, max_size=60),
    st.lists(st.integers(1, 16), min_size=4, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_other_widths_of_counts_and_literals_between_repeats_are_read(
    runs: list[tuple[int, int]], widths: list[int], seed: int
) -> None:
    values = [value for value, count in runs for _ in range(count)]
    values += [0] * (-len(values) % 4)
    rle = tokens_of(values, widths, np.random.default_rng(seed))
    pixels = len(values) // 4
    assert np.array_equal(decode(rle, (1, pixels))[0], np.array(values[3::4]) >= 128)
    if widths == [3, 4, 8, 16]:
        assert np.array_equal(decode_rle(rle), values)


def test_single_values_are_read_as_well_as_runs() -> None:
    alpha = np.random.default_rng(2).integers(0, 256, (13, 11))
    values = [value for one in alpha.flat for value in (0, 0, 0, int(one))]
    assert np.array_equal(decode(literal(values), (13, 11)), alpha >= 128)


@pytest.mark.parametrize(
    ("rle", "complaint"),
    [
        ([], "too short"),
        (EIGHT[:6], "too short"),
        (EIGHT[:-4], "end after"),
        ([255, 255, 255, 255, *EIGHT[4:]], "do not fit"),
        ([*EIGHT[:4], 0, *EIGHT[5:]], "values of 8 bits"),
        ([*EIGHT[:-2], 999, 0], "from 0 to 255"),
        ([*EIGHT[:-2], -1, 0], "from 0 to 255"),
        (["a"], "from 0 to 255"),
        (EIGHT + [0] * 2000, "too long"),
        ([*EIGHT[:7], 127, 255, 255, 0, 0, 0, 0, 0, 0], "cover"),
    ],
    ids=["nothing", "no header", "truncated", "claims 4 GiB", "word size", "999", "-1", "text", "too long", "too many"],
)
def test_what_is_not_a_mask_of_the_image_is_refused(rle: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        decode(rle, (8, 8))


@given(st.lists(st.integers(0, 255), max_size=60), st.integers(1, 9), st.integers(1, 9))
def test_any_bytes_are_read_or_refused(tail: list[int], height: int, width: int) -> None:
    claimed = list((height * width * 4).to_bytes(4, "big"))
    with suppress(ValueError):
        assert decode([*claimed, 57, 27, 254, *tail], (height, width)).shape == (height, width)


def test_a_claim_of_gigabytes_takes_no_memory() -> None:
    size_hw = (2**15, 2**15 - 1)
    claim = [*(size_hw[0] * size_hw[1] * 4).to_bytes(4, "big"), *EIGHT[4:]]
    tracemalloc.start()
    with pytest.raises(ValueError, match="end after"):
        decode(claim, size_hw)
    with pytest.raises(ValueError, match="do not fit"):
        decode(claim, (8, 8))
    with pytest.raises(ValueError, match="too long"):
        decode(range(10**9), (8, 8))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 2, 2)])
def test_what_is_no_image_is_not_written(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        encode(np.zeros(shape, bool))


def test_a_large_mask_is_written_and_read_in_no_time() -> None:
    rows, columns = np.ogrid[:4096, :4096]
    disk = (rows - 2000) ** 2 + (columns - 2000) ** 2 < 1500**2
    started = time.process_time()
    assert np.array_equal(decode(encode(disk), disk.shape), disk)
    assert time.process_time() - started < 2
