"""What one project needs: a labeling config, our backend, its webhook, and predictions that people see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from ml_backend import access
from ml_backend.chain import Chain
from ml_backend.connect import NO_DOT, Connector, default_url, ours, takes_webhooks, wanted_version
from ml_backend.errors import BackendError, UnusableConfig
from ml_backend.findings import Finding, State, in_time, looked
from ml_backend.label_config import read_label_config
from ml_backend.label_studio import SWITCHES
from ml_backend.learning import rollout, training
from ml_backend.options import Options
from ml_backend.web_probe import WebAway, WebProbe
from ml_backend.wiring import UNCERTAINTY, Backend, Hook, Project, Wiring
from workers.errors import WorkersError

CONNECTED = ("CO", "TR", "PR")
"""States of a backend that answered Label Studio."""

REASONS = 2
"""Most faults of one prediction that are said."""


class ProjectChain:
    """Looks at a project, link by link.

    Args:
        chain: Label Studio, which was reached, and Redis, if that was.
        connector: Mends it; there is none without Redis.
        project_id: The project.
    """

    def __init__(self, chain: Chain, connector: Connector | None, project_id: int) -> None:
        assert chain.wiring is not None
        self._chain = chain
        self._queue = chain.queue
        self._wiring: Wiring = chain.wiring
        self._connector = connector
        self._url = default_url(chain.settings)
        self._id = project_id
        self._served: str | None = None

    def has_us(self) -> bool:
        """Ask whether the project has our backend.

        Returns:
            Whether one of its backends is ours.
        """
        return self._ours(self._wiring.backends(self._id)) is not None

    def findings(self) -> Iterator[Finding]:
        """Look at all of it.

        Yields:
            What was found.
        """
        try:
            project, backends = in_time(lambda: (self._wiring.project(self._id), self._wiring.backends(self._id)))
            self._served = self._queue.model_version(self._id) if self._queue else None
            backend = self._ours(backends)
        except (BackendError, WorkersError) as exc:
            yield self._say("project", "wrong", str(exc))
            return
        yield self._say("project", "right", f'Number {project.id} is "{project.title}".')
        config = list(self._looked("config", lambda: self._config(project)))
        yield from config
        usable = config[0].state == "right"
        web = list(self._looked("web", lambda: self._web(project, backend, usable=usable)))
        yield from self._looked("backend", lambda: self._backend(backends, backend, web[-1].state == "right"))
        if backend is None:
            yield from web
            yield self._say("webhook", "unknown", "Not looked at, since it goes with the backend.")
            return
        yield from web
        yield from self._looked("interactive", lambda: self._interactive(backend))
        yield from self._looked("webhook", lambda: self._webhook(backend, backends))
        yield from self._learning()
        yield from self._looked("champion", self._champion)
        yield from self._looked("predictions", lambda: self._predictions(project, backend))
        yield from self._looked("sampling", lambda: self._sampling(project, backend))

    def _learning(self) -> Iterator[Finding]:
        if queue := self._queue:
            yield from self._looked("training", lambda: training(queue, self._id))
            yield from self._looked("rollout", lambda: rollout(queue, self._id))

    def _ours(self, backends: tuple[Backend, ...]) -> Backend | None:
        return ours(backends, self._url, None, self._queue.model_versions(self._id) if self._queue else ())

    def _mend(self, step: Literal["config", "backend", "webhook", "shown"]) -> Callable[[], list[str]] | None:
        return getattr(self._connector, step) if self._connector else None

    def _say(
        self, check: str, state: State, said: str, move: str = "", mend: Callable[[], list[str]] | None = None
    ) -> Finding:
        return Finding(check, state, said, move, self._id, mend)

    def _looked(self, check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
        return looked(check, look, self._id)

    def _config(self, project: Project) -> Iterator[Finding]:
        try:
            options = Options.kept(self._queue.options(self._id) if self._queue else None)
            read_label_config(project.label_config, options)
        except UnusableConfig as exc:
            mend = self._mend("config")
            empty = "name=" not in project.label_config
            move = "Write it under Settings, Labeling Interface" + (
                ", or let --fix write a usual one." if empty else "."
            )
            yield self._say("config", "wrong", str(exc), move, mend if empty else None)
        else:
            yield self._say("config", "right", "Label Studio's labeling config has all that masks need.")

    def _web(self, project: Project, backend: Backend | None, *, usable: bool) -> Iterator[Finding]:
        url = backend.url if backend else self._url
        try:
            [found] = self._chain.asked(url)
        except WebAway:
            if backend is None or backend.state not in CONNECTED:
                raise
            # A name that Label Studio's network knows, and this machine does not, is no fault.
            said = f"Label Studio reaches {url}, this machine does not, so it was not looked at from here."
            yield self._say("web", "note", said)
            return
        if found.state == "right" and usable:
            extra = backend.extra_params if backend else None
            version = WebProbe(url, self._chain.settings).setup(project.id, project.label_config, extra)
            yield self._say("web", "right", f"{url} takes requests, and promises {version or 'no version yet'}.")
        else:
            yield self._say("web", found.state, found.said, found.move)

    def _backend(self, backends: tuple[Backend, ...], backend: Backend | None, reached: bool) -> Iterator[Finding]:
        mend = self._mend("backend")
        if backend is None:
            move = f"`rsrefseg-backend connect --project {self._id}` or --fix does it."
            others = f" among {len(backends)} others" if backends else ""
            yield self._say("backend", "wrong", f"We are not registered as an ML backend{others}:", move, mend)
            return
        if backend.state not in CONNECTED:
            reason = f": {backend.error_message}" if backend.error_message else ""
            move = "Start `rsrefseg-backend web`, or give its address to `rsrefseg-backend connect --url`."
            if reached and not reason:
                move = f"This machine reaches it. Its host must be known where Label Studio runs. {SWITCHES}"
            state = backend.readable_state or backend.state
            yield self._say("backend", "wrong", f"Label Studio says of {backend.url}: {state}{reason}.", move, mend)
            return
        if backends[0].id != backend.id:
            said = f'Label Studio asks the first backend alone, "{backends[0].title}" at {backends[0].url}, not us.'
            yield self._say("backend", "wrong", said, "Delete that one under Settings, Model, if it is not needed.")
            return
        if not backend.title or not backend.auto_update:
            said = "It has no title." if not backend.title else "Label Studio does not follow its version."
            yield self._say("backend", "wrong", said, "--fix changes that.", mend)
            return
        yield self._say("backend", "right", f'"{backend.title}" at {backend.url} is connected.')

    def _interactive(self, backend: Backend) -> Iterator[Finding]:
        if backend.is_interactive:
            yield self._say("interactive", "right", "Typing and pointing in the editor asks for masks.")
        else:
            move = "switch on Interactive preannotations under Settings, Model, or let --fix do it."
            said = "The editor does not ask for masks:"
            yield self._say("interactive", "wrong", said, move, self._mend("backend"))

    def _webhook(self, backend: Backend, backends: tuple[Backend, ...]) -> Iterator[Finding]:
        hooks = self._wiring.hooks(self._id)
        mend = self._mend("webhook")
        ours = [hook for hook in hooks if hook.url == backend.webhook_url]
        if ours:
            yield self._hook(ours[0])
        elif not takes_webhooks(backend.url):
            yield self._say("webhook", "wrong", f"There is none, so corrections go unnoticed: {NO_DOT}.")
        else:
            move = f"--fix registers {backend.webhook_url}."
            yield self._say("webhook", "wrong", "There is none, so corrections go unnoticed:", move, mend)
        known = {one.webhook_url for one in backends}
        for hook in hooks:
            if hook.url not in known and hook.url.endswith("/webhook") and hook.is_active:
                said = f"{hook.url} belongs to no backend of the project; each submit waits up to a second for it."
                yield self._say("webhook", "note", said, "Delete it under Settings, Webhooks, if nobody needs it.")

    def _hook(self, hook: Hook) -> Finding:
        if not hook.is_active:
            fault = "It is switched off"
        elif not (hook.send_payload and hook.send_for_all_actions):
            fault = "It does not send all events with their content"
        elif not hook.authorization.startswith("Bearer "):
            fault = "It shows no secret, so anybody may pretend to be it"
        elif self._queue is None:
            return self._say("webhook", "unknown", f"{hook.url} gets all events; Redis would know its secret.")
        elif not access.installed(self._queue, self._id):
            fault = "It shows a secret that the web process does not know, and does not ask for"
        elif not access.check(self._queue, self._id, hook.authorization, required=True):
            fault = "It shows another secret than the web process asks for, so its events are refused"
        else:
            return self._say("webhook", "right", f"{hook.url} gets all events, and shows its secret.")
        return self._say("webhook", "wrong", f"{fault}:", "--fix changes that.", self._mend("webhook"))

    def _champion(self) -> Iterator[Finding]:
        champion = self._queue.champion(self._id) if self._queue else None
        if self._queue is None or champion is None:
            return
        troubles = self._queue.troubles().get(self._id, ())
        for trouble in troubles:
            said = f"Workers on {trouble.host} cannot load {champion}, so what served before goes on: {trouble.reason}"
            move = (
                f"`rsrefseg-backend models rollback --project {self._id}` makes that the champion; on another machine "
                "workers need the same RSREFSEG_DATA."
            )
            yield self._say("champion", "wrong", said, move)
        if not troubles:
            yield self._say("champion", "right", f"{champion}, the project's own, serves.")

    def _predictions(self, project: Project, backend: Backend) -> Iterator[Finding]:
        counts = self._wiring.model_versions(project.id)
        there = ", ".join(f"{count} of {version or 'no version'}" for version, count in counts.items())
        shown, mend = project.model_version or "", self._mend("shown")
        if not project.show_collab_predictions:
            said = f"Predictions are hidden from annotators ({there or 'there are none yet'}):"
            move = "switch on Settings, Annotation, Use predictions to prelabel tasks, or let --fix do it."
            yield self._say("predictions", "wrong", said, move, mend)
        elif shown not in {backend.title, self._served}:
            what = f'those of "{shown}"' if shown else "none"
            said = f"The project shows {what}, while {self._served or backend.title} is served ({there or 'none yet'}):"
            yield self._say(
                "predictions", "wrong", said, "choose it under Settings, Annotation, or let --fix do it.", mend
            )
        elif counts and self._served and not counts.get(self._served):
            said = f"{there}, hidden, since they are not of {self._served}, which is served:"
            move = f"`rsrefseg-backend prelabel --project {self._id}` asks for new ones."
            yield self._say("predictions", "wrong", said, move)
        else:
            yield self._say("predictions", "right", f"They are shown ({there or 'there are none yet'}).")
        if counts:
            yield from self._fit(project)

    def _fit(self, project: Project) -> Iterator[Finding]:
        # One of them, since each may be megabytes; a config that was changed makes all of them unfit.
        example = self._wiring.an_example(project.id)
        if example is None:
            return
        from label_studio_sdk.label_interface import LabelInterface  # Takes a second to import.

        task_id, prediction = example
        reasons = LabelInterface(project.label_config).validate_prediction(prediction, return_errors=True)
        if reasons:
            said = f"Those of task {task_id} do not fit the labeling config: {'; '.join(map(str, reasons[:REASONS]))}."
            move = "Delete them in the data manager (Delete Predictions), and `rsrefseg-backend prelabel` asks anew."
            yield self._say("predictions", "wrong", said, move)

    def _sampling(self, project: Project, backend: Backend) -> Iterator[Finding]:
        if project.sampling != UNCERTAINTY:
            said = f"{project.sampling}: scores do not decide which task comes next."
            yield self._say("sampling", "note", said, f"`rsrefseg-backend connect --project {self._id}` changes that.")
            return
        if (project.model_version or "") not in {backend.title, self._served}:
            yield self._say("sampling", "unknown", "It goes by the scores of the predictions that are shown.")
            return
        counts = self._wiring.model_versions(project.id)
        have, tasks = counts.get(self._served or "", 0), project.task_number or 0
        wanted = wanted_version(project, backend, counts, self._served)
        if (project.model_version or "") == self._served:
            said = f"Uncertain masks come first; {have} of {tasks} tasks have theirs."
            if have >= tasks:
                yield self._say("sampling", "right", said)
            else:
                move = f"`rsrefseg-backend prelabel --project {self._id}` asks for the others."
                yield self._say("sampling", "note", said, move)
        elif wanted == self._served:
            said = f'It has no effect while the project follows "{project.model_version}" and not {self._served}:'
            yield self._say("sampling", "wrong", said, "--fix changes that.", self._mend("shown"))
        else:
            said = f"Tasks come at random until all have a mask ({have} of {tasks})."
            move = f"After `rsrefseg-backend prelabel --project {self._id}`, --fix lets uncertain ones come first."
            yield self._say("sampling", "right" if not tasks else "note", said, move if tasks else "")
