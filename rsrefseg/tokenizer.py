"""Expressions to token ids: with the byte-pair vocabulary of CLIP, or with SigLIP's sentencepiece model."""

from __future__ import annotations

import logging
import string
from collections.abc import Callable
from pathlib import Path

import torch
from open_clip.tokenizer import SimpleTokenizer
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from rsrefseg.errors import BadCheckpoint, BadRequest
from rsrefseg.presets import ClipText, SiglipText

log = logging.getLogger(__name__)

Tokenize = Callable[[str], Tensor]
"""One expression to (t,) int64, the end token last, without padding."""

SIGLIP_VOCABULARY = "spiece.model"
"""The file that SigLIP's words come from; it lies beside a checkpoint, or beside SigLIP's weights."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _cut(words: list[int], room: int) -> list[int]:
    if not words:
        raise BadRequest("the expression is empty: name what to segment, for example 'the ship at the pier'")
    if len(words) > room:
        log.warning("expression cut", extra={"tokens": len(words), "kept": room})
    return words[:room]


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
        """
        words = _cut(self._bpe.encode(expression), self._positions - 2)
        return torch.tensor([self._bpe.sot_token_id, *words, self._bpe.eot_token_id], dtype=torch.long)


class SiglipTokenizer:
    """Turn words into ids exactly as transformers' tokenizer of the same name does, which published weights know.

    Args:
        vocabulary: SigLIP's sentencepiece model.
        positions: Longest sequence the tower reads, end token included.

    Raises:
        BadCheckpoint: If the file is not such a model.
    """

    def __init__(self, vocabulary: Path, positions: int) -> None:
        try:
            self._pieces = SentencePieceProcessor(model_file=str(vocabulary))
        except (OSError, RuntimeError) as exc:
            raise BadCheckpoint(f"{vocabulary} is not a sentencepiece model: fetch it again") from exc
        self._positions = positions

    @property
    def vocab_size(self) -> int:
        """Count the ids."""
        return int(self._pieces.get_piece_size())

    def __call__(self, expression: str) -> Tensor:
        """Encode one expression.

        Letters become small and ASCII punctuation vanishes: "top-left" is "topleft" to the published weights. A longer
        expression is cut to the tower's positions, with a warning in the log.

        Args:
            expression: Words in any case; white space around them does not matter.

        Returns:
            (t,) int64 with the end token last; there is no start token.
        """
        cleaned = " ".join(expression.lower().translate(_NO_PUNCTUATION).split())
        words = _cut(self._pieces.encode(cleaned), self._positions - 1)
        return torch.tensor([*words, self._pieces.eos_id()], dtype=torch.long)


def tokenizer_for(text: ClipText | SiglipText, vocabulary: Path | None) -> Tokenize:
    """Build what turns words into the ids of a text tower.

    Args:
        text: The tower.
        vocabulary: SigLIP's sentencepiece model; not looked at for other towers.

    Returns:
        The tokenizer.

    Raises:
        BadCheckpoint: If its ids are not the tower's.
    """
    if isinstance(text, ClipText):
        return Tokenizer(text.positions)
    if vocabulary is None:
        raise BadCheckpoint(f"SigLIP's words are missing: no {SIGLIP_VOCABULARY} was given")
    built = SiglipTokenizer(vocabulary, text.positions)
    if built.vocab_size != text.vocab_size:
        raise BadCheckpoint(f"{vocabulary} has {built.vocab_size} pieces, the text tower knows {text.vocab_size}")
    return built
