"""Snapshots of a project's corrections, under RSREFSEG_DATA: what models were taught and measured on, never changed.

    datasets/PROJECT/images/3fa94c12....png       by content, shared by all snapshots of the project
    datasets/PROJECT/0003-3fa94c12-train.jsonl    referring lines, with the way that each correction came
    datasets/PROJECT/0003-3fa94c12-held-out.jsonl of scenes that are never taught
    datasets/PROJECT/0003-3fa94c12.json           the manifest, written last: what has none does not exist

`rsrefseg evaluate --dataset coco --root RSREFSEG_DATA/datasets/PROJECT --split NAME-held-out` reads them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import AwareDatetime, Field, ValidationError

from workers.contract import Wire
from workers.corrections import Origin
from workers.errors import NoSnapshot

log = logging.getLogger(__name__)

FOLDER = "datasets"
"""Below the data directory."""

IMAGES = "images"

VALIDATED = 5
"""Of the scenes that may be taught, one in so many is exported as a part of its own."""

_NAME = re.compile(r"^\d{4,}-[0-9a-f]{8}$")

Part = Literal["train", "held-out"]


class PartCounts(Wire):
    """What one part of a snapshot holds."""

    corrections: int
    images: int
    scenes: int
    labels: dict[str, int]
    sha256: str
    """Of its file."""


class Manifest(Wire):
    """What a snapshot is."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=_NAME)]
    """Its number in the project, and a digest of its content."""
    project_id: int
    parent: str | None
    """The snapshot before it."""
    made_at: AwareDatetime
    train: PartCounts
    held_out: PartCounts
    annotations: dict[int, str]
    """Those that were looked at: when each was last updated, by its number in Label Studio."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Corrections that are in neither part, by the reason: their image could not be had, or is held out elsewhere."""
    examples: tuple[str, ...] = ()
    """What was said of some of these images."""

    @property
    def corrections(self) -> int:
        """How many it holds."""
        return self.train.corrections + self.held_out.corrections


class Exported(NamedTuple):
    """What was copied out of a snapshot."""

    manifest: Manifest
    train: int
    """Corrections to learn from."""
    val: int
    """Corrections to choose among weights by, which are not among those."""
    held_out: int
    val_scenes: tuple[str, ...]


class Line(Wire):
    """One correction as a line of a snapshot: a referring sample, and the way it came."""

    ref_id: str
    file_name: str
    sent: str
    category_name: str | None
    segmentation: dict[str, Any]
    """Compressed run lengths of the image's size; of an all-false mask where nothing is referred to."""
    scene: str
    task: int
    annotation: int
    updated_at: str
    annotator: int | None
    origin: Origin
    iou: float | None
    """Between what was shown and what it became."""
    model_version: str | None
    """Who made what was shown."""


class Snapshots:
    """The snapshots of all projects.

    Args:
        data: The data directory.
    """

    def __init__(self, data: Path) -> None:
        self._root = data / FOLDER

    def folder(self, project_id: int) -> Path:
        """Say where a project's snapshots lie.

        Args:
            project_id: The project.

        Returns:
            The folder.
        """
        return self._root / str(project_id)

    def all(self, project_id: int) -> list[Manifest]:
        """List a project's snapshots.

        Args:
            project_id: The project.

        Returns:
            Those that can be read, oldest first.
        """
        found = filter(None, map(self._read, self.folder(project_id).glob("[0-9]*-*.json")))
        return sorted(found, key=lambda manifest: int(manifest.name.partition("-")[0]))

    @staticmethod
    def _read(path: Path) -> Manifest | None:
        try:
            return Manifest.model_validate_json(path.read_text("utf-8"))
        except (OSError, ValidationError) as exc:
            log.warning("snapshot not readable", extra={"file": str(path), "error": type(exc).__name__})
            return None

    def names(self, project_id: int) -> list[str]:
        """Name a project's snapshots without reading any.

        Args:
            project_id: The project.

        Returns:
            Their names, oldest first.
        """
        names = (path.stem for path in self.folder(project_id).glob("[0-9]*-*.json"))
        return sorted(filter(_NAME.fullmatch, names), key=lambda name: int(name.partition("-")[0]))

    def newest_name(self, project_id: int) -> str | None:
        """Name a project's newest snapshot without reading any.

        Args:
            project_id: The project.

        Returns:
            Its name, or None before the first.
        """
        return next(reversed(self.names(project_id)), None)

    def newest(self, project_id: int) -> Manifest | None:
        """Find a project's newest snapshot.

        Args:
            project_id: The project.

        Returns:
            It, or None before the first.
        """
        found = (self.get(project_id, name) for name in reversed(self.names(project_id)))
        return next(filter(None, found), None)

    def get(self, project_id: int, name: str) -> Manifest | None:
        """Find a snapshot.

        Args:
            project_id: Its project.
            name: Its name.

        Returns:
            It, or None if there is none of that name that can be read.
        """
        path = self.folder(project_id) / f"{name}.json"
        return self._read(path) if _NAME.fullmatch(name) and path.is_file() else None

    def path(self, project_id: int, name: str, part: Part) -> Path:
        """Say where the lines of a snapshot lie.

        Args:
            project_id: Its project.
            name: Its name.
            part: Which of its two parts.

        Returns:
            The file.
        """
        return self.folder(project_id) / f"{name}-{part}.jsonl"

    def lines(self, project_id: int, name: str, part: Part) -> Iterator[Line]:
        """Read the lines of a snapshot.

        Args:
            project_id: Its project.
            name: Its name.
            part: Which of its two parts.

        Yields:
            One for each correction.
        """
        with self.path(project_id, name, part).open(encoding="utf-8") as file:
            for line in file:
                yield Line.model_validate_json(line)

    def export(self, project_id: int, folder: Path) -> Exported:
        """Copy the newest snapshot to where other tools read it.

        Of the scenes that may be taught one in `VALIDATED` goes into a part of its own, for tools that choose among
        weights while they train; a hash of the scene's name says which, so it is the same each time.

        Args:
            project_id: Its project.
            folder: Gets `images/`, `train.jsonl`, `val.jsonl` and `test.jsonl`; made if missing.

        Returns:
            What was copied.

        Raises:
            NoSnapshot: If there is none.
        """
        manifest = self.newest(project_id)
        if manifest is None:
            raise NoSnapshot(project_id)
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        validated = _validated({line.scene for line in self.lines(project_id, manifest.name, "train")})
        counts = Counter[str]()
        images: set[str] = set()
        with ExitStack() as stack:
            names = ("train", "val", "test")
            files = {
                name: stack.enter_context((folder / f"{name}.jsonl").open("w", encoding="utf-8")) for name in names
            }
            for part in get_args(Part):
                for line in self.lines(project_id, manifest.name, part):
                    name = "test" if part == "held-out" else "val" if line.scene in validated else "train"
                    files[name].write(line.model_dump_json() + "\n")
                    counts[name] += 1
                    images.add(line.file_name)
        for image in images:
            shutil.copyfile(self.folder(project_id) / IMAGES / image, folder / IMAGES / image)
        return Exported(manifest, counts["train"], counts["val"], counts["test"], tuple(sorted(validated)))


def _validated(scenes: Set[str]) -> set[str]:
    if len(scenes) < 2:
        return set()
    digests = {scene: hashlib.sha256(f"val {scene}".encode()).digest() for scene in scenes}
    chosen = {scene for scene, digest in digests.items() if digest[0] % VALIDATED == 0}
    # At least one, and never all.
    return chosen if chosen and chosen != scenes else {min(scenes, key=lambda scene: digests[scene])}


def digest_of(files: Iterable[Path], annotations: dict[int, str]) -> str:
    """Tell a snapshot from others by what it holds.

    Args:
        files: Its parts.
        annotations: What was looked at.

    Returns:
        8 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(annotations, sort_keys=True).encode())
    for path in files:
        digest.update(sha256_of(path).encode())
    return digest.hexdigest()[:8]


def sha256_of(path: Path) -> str:
    """Digest a file.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Counting:
    """Counts the lines of a part as they are written."""

    def __init__(self) -> None:
        self.images: set[str] = set()
        """The files' names so far."""
        self._labels: Counter[str] = Counter()
        self._scenes: set[str] = set()

    def add(self, line: Line) -> None:
        """Count one more.

        Args:
            line: The line.
        """
        self._labels[line.category_name or ""] += 1
        self.images.add(line.file_name)
        self._scenes.add(hashlib.sha256(line.scene.encode()).hexdigest())

    def counts(self, path: Path) -> PartCounts:
        """Sum up.

        Args:
            path: The part's file, which is whole.

        Returns:
            The counts.
        """
        return PartCounts(
            corrections=self._labels.total(),
            images=len(self.images),
            scenes=len(self._scenes),
            labels=dict(self._labels.most_common()),
            sha256=sha256_of(path),
        )
