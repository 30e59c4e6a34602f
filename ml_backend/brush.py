"""Label Studio's brush run lengths <-> bool mask.

The format is a bit stream, most significant bit first, over the flat RGBA image (four equal channels, 0 or 255):

    values:32 | word_bits-1:5 | 4 x (count_bits-1):4 | tokens ... | padding
    token = repeat:1 | which_count_bits:2 | count-1:count_bits | one value if repeat, else count values

`encode` gives byte for byte what label_studio_sdk.converter.brush.mask2rle gives, without its fourfold copy.

Source:
    label_studio_sdk 2.1.2, converter/brush.py; the browser reads with @thi.ng/rle-pack.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHANNELS = 4
WORD_BITS = 8
COUNT_BITS = (3, 4, 8, 16)
HEADER_BITS = 32 + 5 + 4 * len(COUNT_BITS)
LONGEST_RUN = 1 << COUNT_BITS[-1]
OPAQUE = 128
"""Alpha from which a pixel belongs to the mask; the editor's brush leaves soft edges."""

PIXELS_LIMIT = (2**32 - 1) // CHANNELS
"""More do not fit the format's 32-bit count of values."""

TOKENS_AT_ONCE = 1 << 16


def encode(mask: np.ndarray) -> list[int]:
    """Write a mask as Label Studio's brush run lengths.

    Args:
        mask: (h, w) bool.

    Returns:
        Bytes as integers, as they stand in a region's `rle`.

    Raises:
        ValueError: If the mask is not two-dimensional, has no pixel, or has more than the format can count.
    """
    if mask.ndim != 2 or not 0 < mask.size <= PIXELS_LIMIT:
        raise ValueError(f"a mask of shape {mask.shape} cannot be written as a brush region")
    flat = np.ascontiguousarray(mask, dtype=bool).reshape(-1)
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    lengths = np.diff(ends, prepend=-1) * CHANNELS
    values = np.where(flat[ends], 255, 0)

    # Whatever is left of a split run keeps the longest count, even if a shorter one would do: so does the SDK.
    pieces = (lengths - 1) // LONGEST_RUN + 1
    last = np.cumsum(pieces) - 1
    counts = np.full(int(pieces.sum()), LONGEST_RUN, dtype=np.int64)
    counts[last] = lengths - (pieces - 1) * LONGEST_RUN
    values = np.repeat(values, pieces)
    sizes = np.searchsorted(np.array([8, 16, 256]), np.repeat(lengths, pieces))

    count_bits = np.array(COUNT_BITS)[sizes]
    widths = 3 + count_bits + WORD_BITS
    # A run has at least four equal values, so every token is a repeat.
    codes = (((0b100 | sizes) << count_bits | (counts - 1)) << WORD_BITS) | values

    bits = [_header_bits(flat.size * CHANNELS)]
    for start in range(0, len(codes), TOKENS_AT_ONCE):
        bits.append(_bits(codes[start : start + TOKENS_AT_ONCE], widths[start : start + TOKENS_AT_ONCE]))
    stream = np.concatenate(bits)
    padding = np.zeros(8 - stream.size % 8, dtype=np.uint8)
    packed: list[int] = np.packbits(np.concatenate([stream, padding])).tolist()
    return packed


def decode(rle: Sequence[int], size_hw: tuple[int, int]) -> np.ndarray:
    """Read Label Studio's brush run lengths.

    The bytes come from outside: what they claim is compared with `size_hw` before any memory is taken for it.

    Args:
        rle: Bytes as integers, as they stand in a region's `rle`.
        size_hw: The image's height and width.

    Returns:
        (h, w) bool; soft edges belong to the mask from `OPAQUE` on.

    Raises:
        ValueError: If the bytes are not run lengths of an image of that size, or end too early.
    """
    height, width = size_hw
    pixels = height * width
    if height < 1 or width < 1 or pixels > PIXELS_LIMIT:
        raise ValueError(f"an image of {height} x {width} pixels cannot have a brush region")
    try:
        data = bytes(rle)
    except (TypeError, ValueError) as exc:
        raise ValueError("brush run lengths must be integers from 0 to 255") from exc
    if len(data) * 8 < HEADER_BITS:
        raise ValueError(f"brush run lengths of {len(data)} bytes are too short for their header")
    header = int.from_bytes(data[:7], "big") >> (56 - HEADER_BITS)
    claimed = header >> (HEADER_BITS - 32)
    if claimed != pixels * CHANNELS:
        raise ValueError(f"brush run lengths of {claimed // CHANNELS} pixels do not fit {height} x {width} pixels")
    if (header >> 16 & 0b11111) + 1 != WORD_BITS:
        raise ValueError("brush run lengths must have values of 8 bits")
    count_bits = tuple((header >> shift & 0b1111) + 1 for shift in (12, 8, 4, 0))

    counts, where, repeats = _tokens(data, claimed, count_bits)
    # A literal token is `count` values of length one; after this line there are only repeats.
    entries = np.where(repeats, 1, counts)
    nth = np.arange(int(entries.sum())) - np.repeat(np.cumsum(entries) - entries, entries)
    alphas = _bytes_at(data, np.repeat(where, entries) + nth * WORD_BITS)
    ends = np.cumsum(np.repeat(np.where(repeats, counts, 1), entries))
    # Alpha is every fourth value, the last of its pixel, so `end // 4` alphas lie before `end`.
    opaque: np.ndarray = np.repeat(alphas >= OPAQUE, np.diff(ends // CHANNELS, prepend=0))
    return opaque.reshape(height, width)


def _header_bits(values: int) -> np.ndarray:
    """Write what comes before the tokens.

    Args:
        values: How many values the tokens cover.

    Returns:
        (HEADER_BITS,) uint8 of 0 and 1.
    """
    code = values << 5 | (WORD_BITS - 1)
    for bits in COUNT_BITS:
        code = code << 4 | (bits - 1)
    return np.array([code >> place & 1 for place in reversed(range(HEADER_BITS))], dtype=np.uint8)


def _bits(codes: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Lay codes of different widths one after the other.

    Args:
        codes: (n,) int, each below 2 ** its width.
        widths: (n,) int.

    Returns:
        (sum of widths,) uint8 of 0 and 1.
    """
    place_in_stream = np.arange(int(widths.sum()))
    place_in_code = np.repeat(np.cumsum(widths), widths) - 1 - place_in_stream
    bits: np.ndarray = (np.repeat(codes, widths) >> place_in_code & 1).astype(np.uint8)
    return bits


def _tokens(data: bytes, values: int, count_bits: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the tokens; where one begins is known only when the one before it has been read, hence the loop.

    Args:
        data: The whole stream.
        values: How many values the tokens must cover.
        count_bits: The four widths of a count.

    Returns:
        Per token: its count, the bit at which its first value stands, and whether it repeats that one value.

    Raises:
        ValueError: If the stream ends before the values are covered, or the tokens cover more.
    """
    counts: list[int] = []
    where: list[int] = []
    repeats: list[bool] = []
    end = len(data) * 8
    at, covered = HEADER_BITS, 0
    while covered < values:
        start = at >> 3
        # 3 bits, at most 16 more, at most 7 to skip: four bytes always hold a token's head.
        window = int.from_bytes(data[start : start + 4].ljust(4, b"\0"), "big") << (at & 7) & 0xFFFFFFFF
        width = count_bits[window >> 29 & 0b11]
        count = (window >> (29 - width) & ((1 << width) - 1)) + 1
        repeat = bool(window >> 31)
        at += 3 + width
        counts.append(count)
        where.append(at)
        repeats.append(repeat)
        at += WORD_BITS if repeat else WORD_BITS * count
        covered += count
        if at > end:
            raise ValueError(f"brush run lengths end after {covered - count} of {values} values")
    if covered != values:
        raise ValueError(f"brush run lengths cover {covered} values instead of {values}")
    return np.array(counts), np.array(where), np.array(repeats)


def _bytes_at(data: bytes, bits: np.ndarray) -> np.ndarray:
    """Read eight bits from each place of a stream.

    Args:
        data: The stream.
        bits: (n,) int, where to read; at least eight bits follow each.

    Returns:
        (n,) int from 0 to 255.
    """
    stream = np.frombuffer(data + b"\0", dtype=np.uint8)
    first = bits >> 3
    pair = stream[first].astype(np.uint16) << 8 | stream[first + 1]
    read: np.ndarray = pair >> (8 - (bits & 7)).astype(np.uint16) & 0xFF
    return read
