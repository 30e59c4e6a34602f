"""What RQ calls on the `train` queue: a project's champion is taught further, judged, and takes its place or does not.

    collecting --> learning --> scoring --> promoted | refused

A training that is killed goes on where it stopped: its snapshot, its weights and its answers are in a folder of the
run (`runs.py`), a version that was written already is found in the registry, and a last word is said again.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import closing, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rq import get_current_job
from structlog.contextvars import bound_contextvars

from rsrefseg import checkpoint
from rsrefseg.calibration import UNCALIBRATED
from rsrefseg.errors import RSRefSegError
from rsrefseg.gate import judge
from rsrefseg.predictor import Predictor
from rsrefseg.teaching import Course, calibrated, teach
from workers import metrics, progress
from workers.alias import move_alias
from workers.collector import Collector
from workers.contract import Training, TrainJob
from workers.corrections import Corrections
from workers.desk import DESK, Desk
from workers.errors import AliasMoved, Interrupted, RedisAway, Superseded, WorkersError
from workers.images import ImageFetcher
from workers.material import Material
from workers.registry import Comparison, Registry, Verdict, Version, Why
from workers.runs import Run, RunFolder, number_of
from workers.snapshots import Manifest, Snapshots
from workers.worker import load

log = logging.getLogger(__name__)

SAY_S = 2.0
"""How often a training says how far it is, in seconds."""


class Ended(Exception):
    """There is nothing more to be done, for a reason that people are told."""


def retrain(job_json: str) -> None:
    """Teach a project further by its corrections.

    Args:
        job_json: A `TrainJob`.

    Raises:
        RuntimeError: Outside of a worker.
        Interrupted: If the worker is asked to leave meanwhile; RQ then puts the job in front of the others.
    """
    job = get_current_job()
    if job is None:
        raise RuntimeError("a training runs where RQ runs its job, by `rsrefseg-worker run --queue train`")
    asked = TrainJob.model_validate_json(job_json)
    with bound_contextvars(job_id=job.id, project_id=asked.project_id):
        desk = DESK.take()
        try:
            folder = RunFolder(desk.queue.settings.data, asked.project_id, number_of(desk.queue.redis, job))
            try:
                _Retraining(desk, asked, job.created_at.isoformat(), folder).run()
            finally:
                folder.leave()
        except Superseded:
            log.warning("training left to another worker, who has it by now")
        except Interrupted:
            job.retries_left = (job.retries_left or 0) + 1  # It is no fault of the job.
            log.info("training left, to be gone on with")
            raise


class _Retraining:
    # One take of one job.

    def __init__(self, desk: Desk, asked: TrainJob, asked_at: str, folder: RunFolder) -> None:
        self._desk = desk
        self._asked = asked
        self._asked_at = asked_at
        self._folder = folder
        self._course = desk.course or Course()
        settings = desk.queue.settings
        self._settings = settings
        self._registry = Registry(settings.data)
        self._snapshots = Snapshots(settings.data)
        now = datetime.now(UTC)
        self._said = Training(project_id=asked.project_id, stage="collecting", why=asked.why, began_at=now, at=now)
        self._said_at = 0.0
        self._lap_at = time.monotonic()

    def run(self) -> None:
        former = self._folder.take(self._asked_at)
        if former is not None and former.ended is not None:
            # An earlier take was killed between its last word and the end of its job.
            self._desk.queue.keep_training(former.ended)
            self._folder.clear(but_run=True)
            log.info("training had ended", extra={"stage": former.ended.stage, "reason": former.ended.reason})
            return
        try:
            self._carry_on(former)
        except Ended as end:
            self._end("refused", str(end))
        except (RedisAway, Interrupted, Superseded):
            raise  # The job comes again, or has been given to another.
        except (RSRefSegError, WorkersError) as exc:
            self._check_held()
            log.exception("training failed")
            self._end("failed", f"{str(exc).rstrip('.')}.")
        except Exception:
            self._check_held()  # Whose files another worker has taken, breaks over their absence.
            raise

    def _carry_on(self, former: Run | None) -> None:
        self._say(stage="collecting")
        base = self._load()
        run, manifest = self._begin(base, former)
        parent = self._parent(base, run)
        made = self._made_before(run, manifest, parent)
        if made is None:
            material = self._material(manifest, made_by=run)
            folder = self._learn(parent, material)
            made = self._judge(base, parent, folder, material, run, manifest)
        self._settle(run, made)

    def _load(self) -> Predictor:
        # In single precision, whatever the workers compute with.
        settings = self._settings.model_copy(
            update={"dtype": "float32", "cache_bytes": max(self._settings.cache_bytes, 64 * 1024 * 1024)}
        )
        return load(settings, self._desk.device)

    def _begin(self, base: Predictor, former: Run | None) -> tuple[Run, Manifest]:
        # What an earlier take of this job settled on, else the present state of things.
        project_id = self._asked.project_id
        if former is not None and former.base == base.base_version:
            manifest = self._snapshots.get(project_id, former.snapshot)
            if manifest is not None:
                self._say(began_at=former.began_at, corrections=manifest.train.corrections)
                log.info("training gone on with", extra={"snapshot": former.snapshot})
                return former, manifest
        self._folder.clear()
        manifest = self._collect()
        run = Run(
            asked_at=self._asked_at,
            began_at=self._said.began_at,
            base=base.base_version,
            champion=self._registry.champion(project_id),
            snapshot=manifest.name,
        )
        self._folder.keep(run)
        return run, manifest

    def _collect(self) -> Manifest:
        with closing(ImageFetcher(self._settings)) as fetcher:
            corrections = Corrections(self._settings.data)
            count = len(corrections.tasks(self._asked.project_id))
            collector = Collector(corrections, self._snapshots, fetcher, lambda done: self._go_on(done, count))
            manifest = collector.collect(self._asked.project_id)
        self._say(corrections=manifest.train.corrections)
        if manifest.train.corrections == 0:
            raise Ended(_nothing_in(manifest))
        return manifest

    def _parent(self, base: Predictor, run: Run) -> Predictor:
        if run.champion is None:
            return base
        version = self._registry.get(self._asked.project_id, run.champion)
        if version.base != base.base_version:
            log.warning(
                "the champion is of another base, so the base is taught",
                extra={"champion": run.champion, "its_base": version.base, "base": base.base_version},
            )
            return base
        return base.with_heads(self._registry.folder(self._asked.project_id, run.champion))

    def _made_before(self, run: Run, manifest: Manifest, parent: Predictor) -> Version | None:
        wanted = (run.base, parent.version, manifest.name, self._course.described())
        made = reversed(self._registry.versions(self._asked.project_id))
        return next((one for one in made if (one.base, one.parent, one.dataset, one.recipe) == wanted), None)

    def _material(self, manifest: Manifest, made_by: Run) -> Material:
        former = None
        if made_by.champion is not None:
            version = self._registry.get(self._asked.project_id, made_by.champion)
            former = version.dataset if version.base == made_by.base else None
        material = Material.gather(self._settings, self._snapshots, manifest, former, self._go_on)
        if not material.new:
            raise Ended(f"Nothing is new: {made_by.champion} was taught all {manifest.train.corrections} corrections.")
        return material

    def _learn(self, parent: Predictor, material: Material) -> Path:
        recipe = self._course.recipe(len(material.new) + len(material.older))
        self._say(stage="learning", done=0, of=0, steps=recipe.steps)
        lesson = material.lesson(parent, self._folder.path / "seen", self._desk.device, self._course.mixture)
        lesson.prepare(recipe.steps, self._go_on)

        def on_step(step: int, loss: float) -> bool:
            self._lap()
            self._say(seldom=step < recipe.steps, done=0, of=0, step=step, loss=round(loss, 4))
            return not self._desk.stop.asked

        blend = self._course.blend
        folder = teach(parent, lesson, recipe, self._folder.path / "teaching", on_step, blend=blend)
        if folder is None:
            raise Interrupted
        self._say(step=recipe.steps)  # An earlier take may have learnt all of it.
        return folder

    def _judge(
        self, base: Predictor, parent: Predictor, folder: Path, material: Material, run: Run, manifest: Manifest
    ) -> Version:
        self._say(stage="scoring", done=0, of=0)
        challenger = base.with_heads(folder)
        challenger.calibration = UNCALIBRATED  # An earlier take may have said already what its scores are worth.
        held_out, anchor = material.contests(parent, challenger, self._folder.path, self._go_on)
        found = judge(held_out, anchor)
        calibration, source = calibrated(held_out, anchor, parent.calibration)
        log.info("scores calibrated", extra={"on": source})
        checkpoint.calibrate(folder, calibration)
        version = Version(
            version=checkpoint.version(folder),
            project_id=self._asked.project_id,
            base=run.base,
            parent=parent.version,
            dataset=manifest.name,
            corrections=manifest.train.corrections,
            recipe=self._course.described(),
            code=checkpoint.code_version(),
            made_at=datetime.now(UTC),
            seconds=round((datetime.now(UTC) - run.began_at).total_seconds(), 1),
            verdict=Verdict(
                passed=found.passed,
                reason=found.reason,
                held_out=Comparison(**asdict(found.held_out)) if found.held_out else None,
                anchor=Comparison(**asdict(found.anchor)) if found.anchor else None,
                by_label=found.by_label,
            ),
        )
        self._check_held()
        self._registry.add(version, folder)
        log.info("version made", extra={"model_version": version.version, "passed": found.passed})
        return version

    def _settle(self, run: Run, made: Version) -> None:
        # Whatever of this an earlier take has done already is found done.
        compared, last = made.verdict.held_out, self._registry.last_move(self._asked.project_id)
        champion = last.version if last else None
        self._say(
            version=made.version,
            before=compared and round(compared.before, 2),
            after=compared and round(compared.after, 2),
        )
        if not (made.verdict.passed or self._asked.promote):
            again = "" if made.made_at > run.began_at else f"These corrections were taught before, as {made.version}. "
            raise Ended(again + made.verdict.reason)
        forced = self._asked.promote
        history = {move.version for move in self._registry.history(self._asked.project_id)}
        if champion != made.version and not forced:
            if made.version in history:
                raise Ended(
                    f"{made.version}, which these corrections made before, was taken back; correct more, or promote it "
                    "by hand."
                )
            if champion != run.champion:
                raise Ended(
                    f"{made.verdict.reason.rstrip('.')}; but somebody moved the alias to {champion or 'the base'} "
                    f"meanwhile: promote {made.version} by hand if it is to serve."
                )
        why: Why = "promoted" if made.verdict.passed else "forced"
        try:
            after = last.number if last else 0
            move_alias(self._desk.queue, self._registry, self._asked.project_id, made.version, why, after)
        except AliasMoved:
            return self._settle(run, made)  # By what holds now.
        self._end("promoted", made.verdict.reason if made.verdict.passed else f"By hand. {made.verdict.reason}")

    def _end(self, stage: Literal["promoted", "refused", "failed"], reason: str) -> None:
        now = datetime.now(UTC)
        last_word = self._said.model_copy(update={"stage": stage, "reason": reason, "done": 0, "of": 0, "at": now})
        run = self._folder.run()
        if run is not None:
            self._folder.keep(run.model_copy(update={"ended": last_word}))
        self._said = last_word
        self._check_held()
        self._tell()
        metrics.TRAININGS.labels(stage).inc()
        metrics.TRAINING_SECONDS.set((now - last_word.began_at).total_seconds())
        log.info("training ended", extra={"stage": stage, "reason": reason})
        # The last word stays until the next training begins: a kill may come before RQ knows that the job is done.
        self._folder.clear(but_run=True)

    def _lap(self) -> None:
        progress.busy()
        at = time.monotonic()
        if self._said.stage in {"learning", "scoring"}:  # Collecting waits for the network.
            metrics.BUSY_SECONDS.inc(at - self._lap_at)
        self._lap_at = at

    def _go_on(self, done: int = 0, of: int = 0) -> None:
        self._check_held()
        self._lap()
        if self._desk.stop.asked:
            raise Interrupted
        if of:
            self._say(seldom=done < of, done=done, of=of)

    def _check_held(self) -> None:
        if not self._folder.held():
            raise Superseded

    def _say(self, *, seldom: bool = False, **what: Any) -> None:
        self._check_held()
        self._said = self._said.model_copy(update={**what, "at": datetime.now(UTC)})
        if seldom and time.monotonic() - self._said_at < SAY_S:
            return
        self._tell()

    def _tell(self) -> None:
        with suppress(RedisAway):
            self._desk.queue.keep_training(self._said)
        self._said_at = time.monotonic()


def _nothing_in(manifest: Manifest) -> str:
    if manifest.held_out.corrections:
        return (
            f"All {manifest.held_out.corrections} corrections are of scenes that are held out, as one in five is: "
            "annotate more tasks."
        )
    if manifest.left_out:
        reasons = json.dumps(manifest.left_out)
        example = f" For one: {manifest.examples[0]}" if manifest.examples else ""
        return f"None of the images of the corrections could be had ({reasons}).{example}"
    return "There are no corrections yet: annotate some tasks."
