"""From corrections to a snapshot: images are fetched, masks lined up with them, and all of it kept for ever.

A collection that is killed goes on where it stopped, since images are kept by their content; one that is repeated makes
the same snapshot again, which is the same as none.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from workers.contract import Rle, Wire
from workers.corrections import AnnotationRecord, Correction, Corrections, TaskCorrections
from workers.errors import ImageAway, ImageRefused
from workers.images import ImageFetcher
from workers.snapshots import IMAGES, Counting, Line, Manifest, Part, Snapshots, digest_of
from workers.whole import partial_of, replace, sweep, sync

log = logging.getLogger(__name__)

FETCHERS = 4
"""How many images are fetched at the same time, and how many tasks are read ahead."""

EXAMPLES = 10
"""How many sentences about images that are away a manifest keeps."""

SOURCES = "sources.jsonl"
"""Which image was found where, so that none is fetched twice."""

SAME_PICTURE = "a held-out scene has the same picture"
"""Why a correction is not taught although its scene is not held out."""

PARTS: tuple[Part, ...] = ("train", "held-out")


class Kept(Wire):
    """An image of a task, as it is kept."""

    source: str
    """Digest of the task, of its annotations' time and of the image's address."""
    image: str
    """The file's name."""
    size_hw: tuple[int, int]


class Missing(Wire):
    """An image that could not be had."""

    reason: str
    """In a few words, the same for many."""
    said: str
    """A sentence about this one."""


class Collector:
    """Makes snapshots.

    Args:
        corrections: What annotators said.
        snapshots: Where they are kept.
        fetcher: Fetches images.
        on_task: Told after each task how many there were so far; may raise to stop.
    """

    def __init__(
        self,
        corrections: Corrections,
        snapshots: Snapshots,
        fetcher: ImageFetcher,
        on_task: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._corrections = corrections
        self._snapshots = snapshots
        self._fetcher = fetcher
        self._on_task = on_task

    def collect(self, project_id: int) -> Manifest:
        """Make a snapshot of all that a project's annotators said so far.

        Args:
            project_id: The project; one process at a time collects it.

        Returns:
            The snapshot; a former one if nothing has changed since.
        """
        folder = self._snapshots.folder(project_id)
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(".partial-*"):
            left_over.unlink()
        sweep(folder)
        sweep(folder / IMAGES)
        partial = {part: folder / f".partial-{part}-{secrets.token_hex(4)}" for part in PARTS}
        counting = {part: Counting() for part in PARTS}
        annotations: dict[int, str] = {}
        left_out: Counter[str] = Counter()
        examples: list[str] = []
        with ExitStack() as stack:
            files = {part: stack.enter_context(path.open("w", encoding="utf-8")) for part, path in partial.items()}
            for number, (task, images) in enumerate(self._with_images(project_id, folder), start=1):
                part: Part = "held-out" if task.held_out else "train"
                for record in task.annotations:
                    annotations[record.annotation_id] = record.updated_at.isoformat()
                for place, record, correction in _in_order(task):
                    image = images.get(correction.image)
                    if isinstance(image, Kept):
                        line = _line(task, record, place, correction, image)
                        files[part].write(line.model_dump_json() + "\n")
                        counting[part].add(line)
                    else:
                        missing = image or Missing(reason="the task has no such image", said="")
                        left_out[missing.reason] += 1
                        if missing.said and len(examples) < EXAMPLES and missing.said not in examples:
                            examples.append(missing.said)
                self._on_task(number)
        # One picture under two addresses is two scenes by their names, of which one may be held out.
        if shared := counting["train"].images & counting["held-out"].images:
            counting["train"], without = _leave_out(partial["train"], shared)
            left_out[SAME_PICTURE] += without
        for path in partial.values():
            sync(path)
        return self._finish(project_id, partial, counting, annotations, dict(left_out), tuple(examples))

    def _finish(
        self,
        project_id: int,
        partial: dict[Part, Path],
        counting: dict[Part, Counting],
        annotations: dict[int, str],
        left_out: dict[str, int],
        examples: tuple[str, ...],
    ) -> Manifest:
        digest = digest_of((partial[part] for part in PARTS), annotations)
        former = self._snapshots.names(project_id)
        for name in reversed(former):
            if name.endswith(f"-{digest}") and (same := self._snapshots.get(project_id, name)):
                for path in partial.values():
                    path.unlink()
                return same
        number = int(former[-1].partition("-")[0]) + 1 if former else 1
        manifest = Manifest(
            name=f"{number:04d}-{digest}",
            project_id=project_id,
            parent=former[-1] if former else None,
            made_at=datetime.now(UTC),
            train=counting["train"].counts(partial["train"]),
            held_out=counting["held-out"].counts(partial["held-out"]),
            annotations=annotations,
            left_out=left_out,
            examples=examples,
        )
        for part, path in partial.items():
            path.replace(self._snapshots.path(project_id, manifest.name, part))
        path = self._snapshots.folder(project_id) / f"{manifest.name}.json"
        replace(path, manifest.model_dump_json(indent=2) + "\n")
        log.info("snapshot made", extra={"snapshot": manifest.name, "corrections": manifest.corrections})
        return manifest

    def _with_images(
        self, project_id: int, folder: Path
    ) -> Iterator[tuple[TaskCorrections, dict[int, Kept | Missing]]]:
        # Each task in its turn, its images fetched ahead of it.
        sources = _Sources(folder / SOURCES)
        tasks = self._corrections.of(project_id)
        coming: deque[tuple[TaskCorrections, dict[int, Future[Kept | Missing]]]] = deque()
        with ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetcher") as threads:

            def begin(some: Iterable[TaskCorrections]) -> None:
                for task in some:
                    wanted = sorted({c.image for r in task.annotations for c in r.corrections})
                    there = [number for number in wanted if number < len(task.image_uris)]
                    coming.append((
                        task,
                        {n: threads.submit(self._keep, task, task.image_uris[n], sources, folder) for n in there},
                    ))

            try:
                begin(islice(tasks, FETCHERS))
                while coming:
                    task, images = coming.popleft()
                    fetched = {number: image.result() for number, image in images.items()}
                    for image in fetched.values():
                        if isinstance(image, Kept):
                            sources.add(image)
                    begin(islice(tasks, 1))
                    yield task, fetched
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def _keep(self, task: TaskCorrections, uri: str, sources: _Sources, folder: Path) -> Kept | Missing:
        # An annotation is of the image as it was then, so it is fetched again only with an annotation that is new.
        source = hashlib.sha256(f"{task.mark.task_id} {task.mark.updated_at} {uri}".encode()).hexdigest()
        known = sources.get(source)
        if known and (folder / IMAGES / known.image).is_file():
            return known
        try:
            image = self._fetcher.fetch(uri, task.mark.task_id)
        except ImageAway as exc:
            return Missing(reason="the image does not come just now", said=str(exc))
        except ImageRefused as exc:
            return Missing(reason="there is no such image for us", said=str(exc))
        except Exception:  # One image of many: whatever it does to a decoder, the others are wanted.
            log.exception("image left out", extra={"task_id": task.mark.task_id})
            return Missing(reason="the image broke something of ours", said="")
        digest = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
        path = folder / IMAGES / f"{digest}.png"
        if not path.is_file():
            partial = partial_of(path)
            Image.fromarray(image).save(partial, "PNG", compress_level=3)
            sync(partial)
            partial.replace(path)
        return Kept(source=source, image=path.name, size_hw=(image.shape[0], image.shape[1]))


def _leave_out(path: Path, images: Set[str]) -> tuple[Counting, int]:
    # Write a part again without some of the images; says how many lines were about those.
    counting, without = Counting(), 0
    rest = path.with_name(f"{path.name}-rest")
    with path.open(encoding="utf-8") as file, rest.open("w", encoding="utf-8") as kept:
        for text in file:
            line = Line.model_validate_json(text)
            if line.file_name in images:
                without += 1
            else:
                kept.write(text)
                counting.add(line)
    rest.replace(path)
    return counting, without


class _Sources:
    # A line for each image; what a kill cut short is no line.

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Kept] = {}
        with suppress(FileNotFoundError):
            for line in path.read_text("utf-8").splitlines():
                with suppress(ValueError):
                    kept = Kept.model_validate_json(line)
                    self._known[kept.source] = kept

    def get(self, source: str) -> Kept | None:
        return self._known.get(source)

    def add(self, kept: Kept) -> None:
        if kept.source not in self._known:
            self._known[kept.source] = kept
            with self._path.open("a", encoding="utf-8") as file:
                # Begun on a new line, in case the last one was cut short.
                file.write(f"\n{kept.model_dump_json()}\n")


def _in_order(task: TaskCorrections) -> list[tuple[int, AnnotationRecord, Correction]]:
    # Those about one image side by side, since it is encoded once for all of them.
    found = [
        (place, record, correction)
        for record in task.annotations
        for place, correction in enumerate(record.corrections)
    ]
    return sorted(found, key=lambda one: (one[2].image, one[1].annotation_id, one[0]))


def _line(task: TaskCorrections, record: AnnotationRecord, place: int, correction: Correction, image: Kept) -> Line:
    rle = _lined_up(correction.mask, image.size_hw)
    return Line(
        ref_id=f"{task.mark.task_id}-{record.annotation_id}-{place}",
        file_name=image.image,
        sent=correction.expression,
        category_name=correction.label or None,
        segmentation={"size": list(rle.size_hw), "counts": rle.counts},
        scene=task.scene,
        task=task.mark.task_id,
        annotation=record.annotation_id,
        updated_at=record.updated_at.isoformat(),
        annotator=record.annotator,
        origin=correction.origin,
        iou=correction.iou,
        model_version=record.model_version,
    )


def _lined_up(mask: Rle | None, size_hw: tuple[int, int]) -> Rle:
    if mask is None:
        return Rle.from_mask(np.zeros(size_hw, bool))
    if mask.size_hw == size_hw:
        return mask
    pixels = mask.to_mask().view(np.uint8)
    return Rle.from_mask(cv2.resize(pixels, size_hw[::-1], interpolation=cv2.INTER_NEAREST).astype(bool))
