"""Where the tokens of a brush region's bit stream begin, found in many places of it at once.

A token's length stands in its head, so where the next one begins is known only once it was read. But whoever begins to
read anywhere falls into step with the true tokens soon. So the stream is cut into blocks; before each, readers begin at
every bit where a token may begin, and those that reach the block at the same bit go on as one. Each reads its block to
the end, all in lockstep. What they read is used only where the chain of blocks, from the true start on, arrives at
exactly the bit at which they began: the result is what a reader from the start finds, whatever the stream.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

import numpy as np

HEAD_BITS = 3
VALUE_BITS = 8

BLOCK_BITS = 16_384
"""Length of a block."""

LEAD_BITS = 1024
"""How long before its block readers begin, to have fallen into step."""

SPREAD_BITS = 160
"""How far behind the beginning of its block a reader may arrive; whoever jumps farther is out of step, as a rule."""

ENTRIES_KEPT = 3
"""How many ways into a block are read at most."""

DOUBT = 3
"""How many times as many readers may have come another way into a block than one that is read."""

SPAN_BITS = 1 << 30
"""Longest stream, so that a bit's number and a token's length fit 32 bits together."""


class Layout(NamedTuple):
    """What the stream's header says of its tokens."""

    count_bits: tuple[int, ...]
    """The four widths of a count."""

    @property
    def longest_repeat(self) -> int:
        """Length of the longest token that repeats a value, in bits."""
        return HEAD_BITS + max(self.count_bits) + VALUE_BITS


class Reader:
    """Reads tokens at many bits of a stream at once.

    Args:
        data: The stream.
        layout: Of its tokens.
    """

    def __init__(self, data: bytes, layout: Layout) -> None:
        padded = data + bytes(9)
        self.data = data
        self.bits = len(data) * 8
        self.layout = layout
        self.words: np.ndarray = np.ndarray(len(data) + 1, ">u8", padded, strides=(1,))
        """At each byte it and the seven that follow: a token's head, its count and its first value are in there."""
        self._bytes = np.frombuffer(padded, np.uint8)[: len(data) + 2]
        self._heads = (self._bytes[:-1].astype(np.uint16) << 8 | self._bytes[1:]) >> 6 << 3
        """At each byte the ten bits that begin there, with room for the three of a bit within the byte."""
        self._lengths = _lengths_of_heads(layout)

    def windows(self, at: np.ndarray) -> np.ndarray:
        """Look at 57 bits or more from each of some bits on.

        Args:
            at: (n,) int, numbers of bits.

        Returns:
            (n,) uint64, what is there at the upper end.
        """
        words: np.ndarray = self.words[at >> 3].astype(np.uint64) << (at & 7).astype(np.uint64)
        return words

    def bytes_at(self, at: np.ndarray) -> np.ndarray:
        """Read eight bits at each of some places.

        Args:
            at: (n,) int, numbers of bits; at least eight follow each.

        Returns:
            (n,) int from 0 to 255.
        """
        first = at >> 3
        pairs = self._bytes[first].astype(np.uint16) << 8 | self._bytes[first + 1]
        read: np.ndarray = pairs >> (8 - (at & 7)).astype(np.uint16) & 0xFF
        return read

    def after(self, at: np.ndarray) -> np.ndarray:
        """Find where the next token begins.

        Args:
            at: (n,) int, bits within the stream where tokens begin.

        Returns:
            (n,) int32, at most `SPAN_BITS` more than the stream is long.
        """
        lengths = self._lengths.take(self._heads.take(at >> 3) | (at & 7))
        if not lengths.all():
            literal = np.flatnonzero(lengths == 0)
            windows = self.windows(at[literal])
            sizes, counts = heads_and_counts(windows, self.layout)
            lengths[literal] = HEAD_BITS + sizes + counts * VALUE_BITS
        following: np.ndarray = at + lengths
        return following


def heads_and_counts(windows: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Read how wide the counts of tokens are, and what they say.

    Args:
        windows: (n,) uint64, each with a token's bits at its upper end.
        layout: Of the tokens.

    Returns:
        (n,) int64 widths and (n,) int64 counts.
    """
    sizes = np.array(layout.count_bits, np.uint64)[(windows >> np.uint64(61) & np.uint64(3)).astype(np.intp)]
    counts = (windows << np.uint64(HEAD_BITS) >> (np.uint64(64) - sizes)).astype(np.int64) + 1
    return sizes.astype(np.int64), counts


def _lengths_of_heads(layout: Layout) -> np.ndarray:
    # By ten bits and a place among the first eight of them: the length of a token that repeats, 0 for any other.
    ten, place = np.arange(1 << 13) >> 3, np.arange(1 << 13) & 7
    head = ten >> (7 - place) & 7
    lengths = HEAD_BITS + VALUE_BITS + np.array(layout.count_bits)[head & 3]
    return np.where(head & 4, lengths, 0).astype(np.int32)


def token_starts(reader: Reader, first: int, block_bits: int = BLOCK_BITS) -> np.ndarray:
    """Find where tokens begin.

    Args:
        reader: Of the stream.
        first: The bit at which the first begins, within the stream.
        block_bits: Length of a block.

    Returns:
        (n,) int32, in order, up to the end of the stream; the last token may need more than there is.
    """
    entries = _entries(reader, first, block_bits)
    ends = np.minimum(first + ((entries - first) // block_bits + 1) * block_bits, reader.bits)
    rows = _read_blocks(reader, entries, ends)
    inside = rows < ends
    exits = rows[inside.sum(axis=0), np.arange(len(entries))].tolist()

    columns, inside = np.ascontiguousarray(rows.T), np.ascontiguousarray(inside.T)
    which = {entry: number for number, entry in enumerate(entries.tolist())}
    pieces: list[np.ndarray] = []
    at = first
    while at < reader.bits:
        chain = []
        while (number := which.get(at)) is not None:
            chain.append(number)
            at = exits[number]
        pieces.append(columns[chain][inside[chain]])
        met, at = _walk(reader, at, which)
        pieces.append(np.array(met, np.int32))
    return np.concatenate(pieces)


def _entries(reader: Reader, first: int, block_bits: int) -> np.ndarray:
    # Where blocks may be entered, in order; the first block is entered at the true start.
    begins: np.ndarray = np.arange(first + block_bits, reader.bits, block_bits, dtype=np.int32)
    lead = min(LEAD_BITS, block_bits)
    at: np.ndarray = np.add.outer(begins - lead, np.arange(reader.layout.longest_repeat, dtype=np.int32)).reshape(-1)
    goals: np.ndarray = np.repeat(begins, reader.layout.longest_repeat)
    arrived: list[np.ndarray] = [np.array([first], np.int32)]
    while at.size:
        at = reader.after(at)
        there = at >= goals
        arrived.append(at[there & (at < goals + SPREAD_BITS) & (at < reader.bits)])
        at, goals = at[~there], goals[~there]
    entries, votes = np.unique(np.concatenate(arrived), return_counts=True)
    # Most readers of a block that are in step agree; a few others, or a stream made for it, must not cost more.
    blocks = (entries - first) // block_bits
    order = np.lexsort((-votes, blocks))
    leading = np.searchsorted(blocks, blocks)
    believed = votes[order] * DOUBT >= votes[order][leading]
    kept: np.ndarray = np.sort(entries[order[(np.arange(len(entries)) - leading < ENTRIES_KEPT) & believed]])
    return kept


def _read_blocks(reader: Reader, entries: np.ndarray, ends: np.ndarray) -> np.ndarray:
    # (steps, readers): whoever is done goes on into the next block, until all are done.
    at: np.ndarray = entries
    rows = [at]
    while (at < ends).any():
        at = np.minimum(reader.after(at), reader.bits)
        rows.append(at)
    return np.stack(rows)


def _walk(reader: Reader, at: int, known: Container[int]) -> tuple[list[int], int]:
    # From token to token, up to one that is known or the end: where they begin, and what comes after them.
    met = []
    data, count_bits = reader.data, reader.layout.count_bits
    while at < reader.bits and at not in known:
        met.append(at)
        start = at >> 3
        # Up to 7 bits to skip, 3 of the head, 16 of the count: four bytes hold them.
        window = int.from_bytes(data[start : start + 4].ljust(4, b"\0"), "big") << (at & 7) & 0xFFFFFFFF
        width = count_bits[window >> 29 & 0b11]
        count = (window >> (29 - width) & ((1 << width) - 1)) + 1
        at += HEAD_BITS + width + (VALUE_BITS if window >> 31 else VALUE_BITS * count)
    return met, at
