"""The example projects, as the tests of every service use them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_backend.options import Options

FOLDER = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/config.xml"))


@dataclass(frozen=True)
class Example:
    """A folder of `examples/`."""

    name: str
    config: str
    tasks: list[dict[str, Any]]
    extra_params: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> Example:
        folder = FOLDER / name
        kept = folder / "extra_params.json"
        return cls(
            name,
            (folder / "config.xml").read_text(),
            json.loads((folder / "tasks.json").read_text()),
            json.loads(kept.read_text()) if kept.exists() else {},
        )

    @property
    def options(self) -> Options:
        return Options.model_validate(self.extra_params)
