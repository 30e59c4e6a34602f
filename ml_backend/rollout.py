"""What follows in Label Studio when a project's alias moves: tasks are drawn again, the new masks shown, older ones go.

No job says so. The registry is compared with what was done already, so a promotion, a rollback, a lost Redis and a
courier that was killed are one and the same: something is not yet as it should be.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from redis.lock import Lock

from ml_backend.connect import default_url, ours
from ml_backend.errors import NotFound, RequestRefused, TaskGone, UnusableConfig
from ml_backend.intake import most_at_once, take_in
from ml_backend.label_config import LabelConfig, read_label_config
from ml_backend.label_studio import LabelStudio
from ml_backend.options import Options
from ml_backend.protocol import ListedTask
from ml_backend.turns import take_turns
from ml_backend.wiring import Project, Wiring
from workers.alias import tell_champion
from workers.queue import JobQueue, QueueFull
from workers.registry import Move, Registry
from workers.rollouts import Rollout, Rollouts

log = logging.getLogger(__name__)

PAGES_AT_ONCE = 5
"""How many pages of a project's tasks are looked at before others have their turn."""

REMOVED_AT_ONCE = 20
"""Tasks whose older predictions are removed in one round."""

SHOWN_AFTER = timedelta(minutes=5)
"""How long Label Studio goes on showing the former version while tasks are drawn again; then both have gaps."""

TAKEN_BACK_AFTER = timedelta(seconds=30)
"""The same where a person took a version back: they want it gone."""

TRY_AGAIN = timedelta(minutes=1)
"""When one task is asked for again where no worker draws by the version; then after twice as long, and so on."""

LONGEST_TRIES = 6
"""How often that time is doubled."""


class Follower:
    """Brings Label Studio in line with the registry.

    Args:
        queue: Where tasks are queued again.
        label_studio: Where they are shown.
        registry: Which version serves each project.
    """

    def __init__(self, queue: JobQueue, label_studio: LabelStudio, registry: Registry) -> None:
        self.leaving = threading.Event()
        """Set when the process is asked to end: what is not done waits."""
        self._queue = queue
        self._label_studio = label_studio
        self._wiring = Wiring(label_studio)
        self._registry = registry
        self._rollouts = Rollouts(queue.redis)

    def round(self) -> None:
        """Look at every project that has versions of its own, and go on with what is not done."""
        take_turns((number, partial(self._look, number)) for number in self._registry.projects())

    def _look(self, project_id: int) -> None:
        if self.leaving.is_set():
            return
        move = self._registry.last_move(project_id)
        if self._queue.champion(project_id) != (move.version if move else None):
            tell_champion(self._queue, self._registry, project_id)
        if move is None:
            return
        rollout = self._rollouts.get(project_id)
        if rollout is None or rollout.number != move.number or not rollout.over:
            self._follow(project_id, move)
        self._remove_older(project_id)

    def _follow(self, project_id: int, move: Move) -> None:
        with self._rollouts.alone_at(project_id) as alone:
            if alone is None:
                return
            rollout = self._rollouts.get(project_id)
            if rollout is None or rollout.number != move.number:
                rollout = self._begin(project_id, move)
            if rollout is None or (rollout.not_before and datetime.now(UTC) < rollout.not_before):
                return
            try:
                if not rollout.looked_through:
                    rollout = self._queue_again(project_id, rollout, alone)
                if not rollout.shown:
                    self._show(project_id, rollout, TAKEN_BACK_AFTER if move.why == "rolled back" else SHOWN_AFTER)
            except NotFound as exc:
                log.warning("rollout ended", extra={"project_id": project_id, "reason": str(exc)})
                self._rollouts.keep(project_id, rollout.but(looked_through=True, shown=True))

    def _begin(self, project_id: int, move: Move) -> Rollout | None:
        version = move.version or self._base()
        if version is None:
            return None  # No worker ever said what it loaded; the first one will.
        rollout = Rollout(number=move.number, version=version, began_at=datetime.now(UTC))
        self._rollouts.keep(project_id, rollout)
        facts = {"project_id": project_id, "model_version": version, "former": move.former, "why": move.why}
        log.info("rollout begins", extra={**facts, "move": move.number})
        return rollout

    def _base(self) -> str | None:
        return next(filter(self._registry.is_base, self._queue.model_versions()), None)

    def _queue_again(self, project_id: int, rollout: Rollout, alone: Lock) -> Rollout:
        try:
            options = Options.kept(self._queue.options(project_id))
            config = read_label_config(self._label_studio.label_config(project_id), options)
        except UnusableConfig as exc:
            log.warning("tasks not queued again", extra={"project_id": project_id, "reason": str(exc)})
            return self._keep(project_id, rollout.but(looked_through=True))
        for _ in range(PAGES_AT_ONCE):
            page = self._label_studio.tasks(project_id, rollout.after, unannotated=True)
            missing = [task for task in page.tasks if rollout.version not in task.model_versions]
            # Those that have it from before: what else they have may be ours, and older.
            there = (task for task in page.tasks if rollout.version in task.model_versions)
            self._rollouts.replaced(project_id, *(task.id for task in there if len(task.model_versions) > 1))
            if rollout.tries:
                missing = missing[:1]
            try:
                asked = self._take_in(project_id, missing, config, rollout.version)
            except QueueFull:
                return rollout
            rollout = rollout.but(asked=rollout.asked + asked)
            if len(page.tasks) in (0, page.total) or (rollout.tries and missing):
                facts = {"project_id": project_id, "model_version": rollout.version, "tasks": rollout.asked}
                log.info("tasks queued again", extra=facts)
                return self._keep(project_id, rollout.but(looked_through=True))
            rollout = self._keep(project_id, rollout.but(after=page.tasks[-1].id))
            alone.reacquire()
            if self.leaving.is_set():
                break
        return rollout

    def _take_in(self, project_id: int, tasks: Sequence[ListedTask], config: LabelConfig, version: str) -> int:
        asked = 0
        few = most_at_once(self._queue.settings)
        for start in range(0, len(tasks), few):
            taken = take_in(self._queue, tasks[start : start + few], project_id, config, version)
            asked += len(taken.jobs)
        return asked

    def _show(self, project_id: int, rollout: Rollout, at_the_latest: timedelta) -> None:
        drawn = rollout.looked_through and not self._queue.projects().get(project_id)
        if not drawn and datetime.now(UTC) - rollout.began_at < at_the_latest:
            return
        facts = {"project_id": project_id, "model_version": rollout.version}
        if not self._wiring.model_versions(project_id).get(rollout.version):
            if drawn and rollout.asked:
                self._try_again_later(project_id, rollout)
            elif drawn:
                log.info("nothing to show", extra={**facts, "reason": "every task is annotated, or cannot be asked"})
                self._keep(project_id, rollout.but(shown=True))
            return
        if rollout.tries:
            # A worker draws by it at last: now for all the others.
            self._keep(project_id, rollout.but(tries=0, after=0, asked=0, looked_through=False))
            return
        project = self._wiring.project(project_id)
        shown = project.model_version or ""
        if shown == rollout.version:
            log.info("label studio shows the version already", extra=facts)
        elif reason := self._not_ours(project, shown):
            log.warning("label studio shows what it showed", extra={**facts, "shown": shown, "reason": reason})
        else:
            try:
                self._wiring.change_project(project_id, model_version=rollout.version)
            except RequestRefused as exc:
                log.warning("label studio does not show the version yet", extra={**facts, "reason": str(exc)})
                return
            seconds = round((datetime.now(UTC) - rollout.began_at).total_seconds(), 1)
            log.info("label studio shows the version", extra={**facts, "instead_of": shown, "seconds": seconds})
        self._keep(project_id, rollout.but(shown=True))

    def _try_again_later(self, project_id: int, rollout: Rollout) -> None:
        tries = rollout.tries + 1
        pause = TRY_AGAIN * 2 ** min(rollout.tries, LONGEST_TRIES)
        again = rollout.but(tries=tries, after=0, asked=0, looked_through=False, not_before=datetime.now(UTC) + pause)
        self._keep(project_id, again)
        reason = "all was asked, and no mask of this version came; `rsrefseg-worker status` says why"
        facts = {"project_id": project_id, "model_version": rollout.version, "reason": reason}
        log.warning("rollout waits", extra={**facts, "seconds": pause.total_seconds()})

    def _not_ours(self, project: Project, shown: str) -> str:
        if not project.show_collab_predictions:
            return "predictions are hidden from annotators"
        versions = self._versions(project.id)
        if not shown or shown in versions:
            return ""
        backend = ours(self._wiring.backends(project.id), default_url(self._queue.settings), None, versions)
        if backend is not None and shown == backend.title:
            return ""
        return "somebody chose it, and it is not ours"

    def _versions(self, project_id: int) -> set[str]:
        return {*self._queue.model_versions(), *self._registry.names(project_id)}

    def _remove_older(self, project_id: int) -> None:
        due = self._rollouts.due(project_id, self._queue.settings.replaced_s, REMOVED_AT_ONCE)
        if not due:
            return
        with self._rollouts.alone_at(project_id) as alone:
            if alone is None:
                return
            rollout = self._rollouts.get(project_id)
            move = self._registry.last_move(project_id)
            if rollout is None or not rollout.shown or move is None or move.number != rollout.number:
                return  # What is shown now may be among them, or is wanted again since the alias moved back.
            # An annotation names the prediction that it began from: who has begun, keeps theirs.
            untouched = self._label_studio.untouched(project_id, list(due))
            removed = 0
            for task_id, when in due.items():
                if self.leaving.is_set():
                    break
                if task_id in untouched:
                    removed += self._remove(task_id, rollout.version, self._versions(project_id))
                self._rollouts.removed(project_id, task_id, when)
            facts = {"project_id": project_id, "tasks": len(due), "removed": removed}
            log.info("older predictions removed", extra=facts)

    def _remove(self, task_id: int, version: str, versions: set[str]) -> int:
        try:
            stored = self._label_studio.predictions(task_id=task_id)
        except TaskGone:
            return 0
        if all(one.model_version != version for one in stored):
            return 0
        older = [one for one in stored if one.model_version != version and one.model_version in versions]
        for one in older:
            self._label_studio.delete_prediction(one.id)
        return len(older)

    def _keep(self, project_id: int, rollout: Rollout) -> Rollout:
        self._rollouts.keep(project_id, rollout)
        return rollout
