"""Expressions to token ids, with open_clip's byte-pair vocabulary of CLIP."""

from __future__ import annotations

import logging

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from rsrefseg.errors import BadRequest

log = logging.getLogger(__name__)


class Tokenizer:
    """Turn words into the ids that the text tower reads, without padding.

    Args:
        positions: Longest sequence the tower reads, start and end token included.
    """

    def __init__(self, positions: int) -> None:
        self._bpe = SimpleTokenizer(context_length=positions)
        self._positions = positions

    @property
    def vocab_size(self) -> int:
        """Count the ids."""
        return int(self._bpe.vocab_size)

    def __call__(self, expression: str) -> Tensor:
        """Encode one expression.

        A longer one is cut to the tower's positions, with a warning in the log.

        Args:
            expression: Words in any case; white space around them does not matter.

        Returns:
            (t,) int64 with the start token first and the end token last.

        Raises:
            BadRequest: If the expression holds no words.
        """
        words = self._bpe.encode(expression)
        if not words:
            raise BadRequest("the expression is empty: name what to segment, for example 'the ship at the pier'")
        room = self._positions - 2
        if len(words) > room:
            log.warning("expression cut", extra={"tokens": len(words), "kept": room})
            words = words[:room]
        return torch.tensor([self._bpe.sot_token_id, *words, self._bpe.eot_token_id], dtype=torch.long)
