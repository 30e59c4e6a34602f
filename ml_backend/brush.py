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

from ml_backend.tokens import HEAD_BITS, SPAN_BITS, VALUE_BITS, Layout, Reader, heads_and_counts, token_starts

CHANNELS = 4
COUNT_BITS = (3, 4, 8, 16)
HEADER_BITS = 32 + 5 + 4 * len(COUNT_BITS)
LONGEST_RUN = 1 << COUNT_BITS[-1]
OPAQUE = 128
"""Alpha from which a pixel belongs to the mask; the editor's brush leaves soft edges."""

REPEAT = np.uint64(1 << 63)
"""The highest bit of a window: set where its token repeats one value."""

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
    widths = 3 + count_bits + VALUE_BITS
    # A run has at least four equal values, so every token is a repeat.
    codes = (((0b100 | sizes) << count_bits | (counts - 1)) << VALUE_BITS) | values

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
    # No token is longer for each value than one that repeats a value once; the editor pads to whole bytes.
    most = (HEADER_BITS + pixels * CHANNELS * (HEAD_BITS + 16 + VALUE_BITS)) // 8 + 2
    if len(rle) > min(most, SPAN_BITS // 8):
        raise ValueError(f"brush run lengths of {len(rle)} bytes are too long for {height} x {width} pixels")
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
    if (header >> 16 & 0b11111) + 1 != VALUE_BITS:
        raise ValueError("brush run lengths must have values of 8 bits")
    count_bits = tuple((header >> shift & 0b1111) + 1 for shift in (12, 8, 4, 0))

    return _pixels(data, Layout(count_bits), pixels).reshape(height, width)


def _pixels(data: bytes, layout: Layout, pixels: int) -> np.ndarray:
    """Read the alpha of each pixel.

    Args:
        data: The whole stream.
        layout: Of its tokens.
        pixels: How many the tokens must cover.

    Returns:
        (pixels,) bool.

    Raises:
        ValueError: If the stream ends before they are covered, or the tokens cover more.
    """
    values = pixels * CHANNELS
    reader = Reader(data, layout)
    starts = token_starts(reader, HEADER_BITS)[:values]
    windows = reader.windows(starts)
    sizes, counts = heads_and_counts(windows, layout)
    covered = np.cumsum(counts)
    # What comes after the token that covers the last value is padding.
    last = int(np.searchsorted(covered, values))
    if last == len(starts):
        raise ValueError(f"brush run lengths end after {covered[-1] if last else 0} of {values} values")
    if covered[last] != values:
        raise ValueError(f"brush run lengths cover {covered[last]} values instead of {values}")
    if reader.after(starts[last : last + 1])[0] > reader.bits:
        raise ValueError(f"brush run lengths end after {values - counts[last]} of {values} values")
    starts, windows, sizes, counts, covered = (one[: last + 1] for one in (starts, windows, sizes, counts, covered))

    repeats = windows >= REPEAT
    # Alpha is every fourth value, the last of its pixel, so `covered // 4` alphas lie before the end of a token.
    alphas = np.diff(covered // CHANNELS, prepend=0)
    found = windows << (HEAD_BITS + sizes).astype(np.uint64) >> np.uint64(64 - VALUE_BITS)
    if not repeats.all():
        # Each alpha of a literal token becomes an entry of its own; after this there are only repeats.
        entries = np.where(repeats, 1, alphas)
        nth = np.arange(int(entries.sum())) - np.repeat(np.cumsum(entries) - entries, entries)
        before = covered - counts
        skipped = np.where(repeats, 0, before // CHANNELS * CHANNELS + CHANNELS - 1 - before)
        at = starts + HEAD_BITS + sizes + skipped * VALUE_BITS
        found = reader.bytes_at(np.repeat(at, entries) + nth * (CHANNELS * VALUE_BITS))
        alphas = np.repeat(np.where(repeats, alphas, 1), entries)
    opaque: np.ndarray = np.repeat(found >= OPAQUE, alphas)
    return opaque


def _header_bits(values: int) -> np.ndarray:
    """Write what comes before the tokens.

    Args:
        values: How many values the tokens cover.

    Returns:
        (HEADER_BITS,) uint8 of 0 and 1.
    """
    code = values << 5 | (VALUE_BITS - 1)
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
