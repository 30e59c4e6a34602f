"""What a model did with each sample, kept in a file so that a killed evaluation goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from rsrefseg.errors import BadRequest
from rsrefseg.metrics import Overlap


@dataclass(frozen=True, slots=True)
class Result:
    """One sample, answered and compared."""

    sample_id: str
    image: str
    """Path of the image: samples of one image share it."""
    intersection: int
    union: int
    category: str | None
    kind: str | None
    score: float
    """The model's own confidence."""
    seconds: float
    """The sample's share of reading and encoding its image and of asking about it."""

    @property
    def overlap(self) -> Overlap:
        """Take what the metrics are made of."""
        return Overlap(self.intersection, self.union)


class ResultFile:
    """A file of one JSON object a line: first what was evaluated, then a result for each sample.

    Args:
        path: Made if missing, with its folder.
        about: Model version, dataset and split; results of others are not mixed in.
        resume: Go on with a file that is there.
    """

    def __init__(self, path: Path, about: dict[str, object], *, resume: bool) -> None:
        self._path = path
        self.done: dict[str, Result] = {}
        """Results that were there already, by sample."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not resume:
            raise BadRequest(f"{path} holds results already: add --resume to go on, or choose another --out")
        kept = self._whole_lines() if path.exists() else b""
        if kept:
            self._read(kept, about)
        self._file: IO[bytes] = path.open("r+b" if path.exists() else "wb")
        self._file.seek(len(kept))
        self._file.truncate()
        if not kept:
            self._write(about)

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, result: Result) -> None:
        """Keep one more; it is on disk when this returns.

        Args:
            result: Counts instead of an earlier one of the same sample.
        """
        self._write(asdict(result))

    def _write(self, record: dict[str, object]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def _whole_lines(self) -> bytes:
        content = self._path.read_bytes()
        return content[: content.rfind(b"\n") + 1]  # a kill may have cut the last line short

    def _read(self, content: bytes, about: dict[str, object]) -> None:
        header, *lines = content.splitlines()
        try:
            there = json.loads(header)
            differing = [key for key in {**about, **there} if about.get(key) != there.get(key)]
        except (ValueError, TypeError) as exc:
            raise BadRequest(f"{self._path} holds no results: choose another --out") from exc
        if differing:
            differences = ", ".join(f"{key} {there.get(key)} and not {about.get(key)}" for key in differing)
            raise BadRequest(f"{self._path} is about {differences}: choose another --out")
        for number, line in enumerate(lines, start=2):
            try:
                result = Result(**json.loads(line))
            except (ValueError, TypeError) as exc:
                raise BadRequest(f"{self._path}, line {number} is damaged: remove it, or choose another --out") from exc
            self.done[result.sample_id] = result
