"""A worker whose model does as the expression says: `sleep 2`, `die`, `break`, or finds what is white."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rsrefseg.errors import BadCheckpoint
from workers import logs
from workers.leased import Pace
from workers.queue import JobQueue
from workers.settings import Settings
from workers.worker import serve


class ObedientPredictor:
    """The door of `rsrefseg.Predictor`, with nothing behind it; heads are a file with the name of their version."""

    version = "obedient@1"

    def __init__(self, diary: Path) -> None:
        self.diary = diary

    def with_heads(self, folder: Path) -> ObedientPredictor:
        other = ObedientPredictor(self.diary)
        other.version = (folder / "heads").read_text()
        if other.version == "corrupt":
            raise BadCheckpoint(f"the weights in {folder} are damaged")
        return other

    def encode_all(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(images)

    def segment(
        self, image: np.ndarray, expressions: Sequence[str], _pointings: object = None
    ) -> list[SimpleNamespace]:
        for expression in expressions:
            with self.diary.open("a") as diary:
                diary.write(expression + "\n")
            match expression.split():
                case ["sleep", seconds]:
                    time.sleep(float(seconds))
                case ["die"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                case ["break"]:
                    raise RuntimeError("the model broke")
        white = image[:, :, 0] > 127
        return [SimpleNamespace(mask=white, score=0.8, predicted_iou=0.9) for _ in expressions]

    def look_again(self, _image: np.ndarray, segments: Sequence[SimpleNamespace]) -> Sequence[SimpleNamespace]:
        return segments

    def sketch(self, image: np.ndarray) -> np.ndarray:
        vector = np.zeros(64, np.float16)
        vector[int(image.mean()) % 64] = 1
        return vector


if __name__ == "__main__":
    settings = Settings.load()
    logs.configure(settings.log_level)
    with JobQueue.open(settings) as queue:
        serve(queue, ObedientPredictor(Path(sys.argv[1])), Pace(beat_s=1, grace_s=1, round_s=1))  # type: ignore[arg-type]
