"""What a training learns from and is judged by: a snapshot, sorted into new and older, and the anchor beside it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rsrefseg.anchor import draw_anchor, read_anchor
from rsrefseg.datasets import Sample, read_benchmark
from rsrefseg.gate import Contest
from rsrefseg.lessons import FromCorrections, Mixture, usable
from rsrefseg.predictor import Predictor
from rsrefseg.results import ResultFile
from rsrefseg.seen import SeenFeatures
from rsrefseg.teaching import compete
from workers.settings import Settings
from workers.snapshots import Line, Manifest, Part, Snapshots

ANCHOR = "anchor"
"""Where the anchor is drawn, below the data directory."""

HELD_OUT_LIMIT = 240
"""Held-out samples from which on no further scene is asked about: always the same scenes, so that trainings end."""


@dataclass(frozen=True)
class Material:
    """Samples for a training."""

    new: Sequence[Sample]
    """That the parent did not learn from."""
    older: Sequence[Sample]
    held_out: Sequence[Sample]
    scenes: Mapping[str, str]
    """Of the held-out samples, by their ids."""
    light: frozenset[str]
    """Those in which nobody had to change anything."""
    anchor: Path

    @classmethod
    def gather(
        cls,
        settings: Settings,
        snapshots: Snapshots,
        manifest: Manifest,
        former: str | None,
        on_scene: Callable[[], None] = lambda: None,
    ) -> Material:
        """Read a snapshot.

        Args:
            settings: For the data directory, and for an anchor that somebody put in place of ours.
            snapshots: Where it is.
            manifest: Of the snapshot.
            former: The snapshot that the parent learnt from, if any.
            on_scene: Told after each scene that is drawn; may raise to stop.

        Returns:
            What there is.
        """
        project_id = manifest.project_id
        known: set[tuple[int, str]] = set()
        if former is not None and snapshots.path(project_id, former, "train").is_file():
            known = {_reading(line) for line in snapshots.lines(project_id, former, "train")}
        older: set[str] = set()
        light: set[str] = set()
        for line in snapshots.lines(project_id, manifest.name, "train"):  # Whose masks would fill the memory.
            if _reading(line) in known:
                older.add(line.ref_id)
            if line.origin == "accepted":
                light.add(line.ref_id)
        learnt = _samples(snapshots, manifest, "train")
        scenes = {line.ref_id: line.scene for line in snapshots.lines(project_id, manifest.name, "held-out")}
        anchor = settings.anchor or settings.data / ANCHOR
        if settings.anchor is None:
            draw_anchor(anchor, on_scene)
        return cls(
            new=[sample for sample in learnt if sample.sample_id not in older],
            older=[sample for sample in learnt if sample.sample_id in older],
            held_out=_bounded(_samples(snapshots, manifest, "held-out"), scenes),
            scenes=scenes,
            light=frozenset(light),
            anchor=anchor,
        )

    def lesson(self, parent: Predictor, folder: Path, device: str, mixture: Mixture) -> FromCorrections:
        """Make a lesson of it.

        Args:
            parent: What is taught further.
            folder: Where features of images are kept.
            device: Where it is.
            mixture: Of a batch.

        Returns:
            The lesson, not prepared.
        """
        return FromCorrections(
            self.new,
            self.older,
            read_anchor(self.anchor, "train"),
            SeenFeatures(parent, folder),
            parent.tokenizer,
            light=self.light,
            device=device,
            mixture=mixture,
        )

    def contests(
        self, champion: Predictor, challenger: Predictor, folder: Path, on_answers: Callable[[int, int], None]
    ) -> tuple[Contest, Contest]:
        """Ask both sides about what neither was taught; answers that are kept in the folder are not asked for again.

        Args:
            champion: What was taught further.
            challenger: What came of it.
            folder: Of the run.
            on_answers: Told after each image how many answers there are of how many; may raise to stop.

        Returns:
            On the held-out samples, and on the anchor.
        """
        tests: tuple[tuple[str, Sequence[Sample], Mapping[str, str]], ...] = (
            ("held-out", self.held_out, self.scenes),
            ("anchor", read_anchor(self.anchor, "test"), {}),
        )
        contests: list[Contest] = []
        every = 2 * sum(len(samples) for _, samples, _ in tests)
        for name, samples, scenes in tests:
            with ExitStack() as stack:
                kept = [
                    stack.enter_context(
                        ResultFile(folder / f"{name}-{side}.jsonl", {"of": side, "set": name}, resume=True)
                    )
                    for side in ("champion", "challenger")
                ]
                before = 2 * sum(len(former) for _, former, _ in tests[: len(contests)])

                def count(done: int, _of: int, before: int = before) -> None:
                    on_answers(before + done, every)

                contests.append(
                    compete(champion, challenger, samples, scenes, kept=(kept[0], kept[1]), on_samples=count)
                )
        return contests[0], contests[1]


def _samples(snapshots: Snapshots, manifest: Manifest, part: Part) -> list[Sample]:
    return usable(read_benchmark("coco", snapshots.folder(manifest.project_id), f"{manifest.name}-{part}"))


def _reading(line: Line) -> tuple[int, str]:
    return line.annotation, line.updated_at


def _bounded(samples: Sequence[Sample], scenes: Mapping[str, str]) -> list[Sample]:
    of_scene: dict[str, int] = defaultdict(int)
    for sample in samples:
        of_scene[scenes[sample.sample_id]] += 1
    taken: set[str] = set()
    count = 0
    for scene in sorted(of_scene, key=lambda scene: hashlib.sha256(scene.encode()).digest()):
        if count < HELD_OUT_LIMIT:
            taken.add(scene)
            count += of_scene[scene]
    return [sample for sample in samples if scenes[sample.sample_id] in taken]
