"""Looks at the whole chain, says in a line each what is right and what to do otherwise, and mends what it can."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.text import Text

from ml_backend.chain import FIX_CALL_S, Chain
from ml_backend.connect import Connector, default_url
from ml_backend.errors import BackendError
from ml_backend.findings import Finding, State, looked
from ml_backend.label_studio import LabelStudio
from ml_backend.project_chain import ProjectChain
from ml_backend.wiring import Wiring
from workers.errors import SettingsError, WorkersError
from workers.settings import Settings

STYLES: Mapping[State, str] = {"right": "green", "note": "yellow", "wrong": "bold red", "unknown": "dim"}

ROUNDS = 4
"""How often --fix looks again while it mends."""

PROJECTS_S = 60.0
"""How long projects are looked through where none was named."""


class Doctor:
    """One visit.

    Args:
        environ: The environment variables.
        project_id: The project to look at; else each that has our backend gets a line.
        stack: Closes what was opened; what mends needs it open.
    """

    def __init__(self, environ: Mapping[str, str], project_id: int | None, stack: ExitStack) -> None:
        self.mended: list[str] = []
        """What was mended, or could not be."""
        self._environ = environ
        self._project_id = project_id
        self._stack = stack

    def mend(self, found: list[Finding]) -> list[Finding]:
        """Mend what can be mended, link by link, since what one step mends lets the next one be seen.

        Args:
            found: What was found before.

        Returns:
            What is found afterwards.
        """
        tried: set[tuple[int | None, str]] = set()
        for _ in range(ROUNDS):
            new = [one for one in found if one.fixable and (one.project, one.check) not in tried]
            if not new:
                break
            for finding in new:
                tried.add((finding.project, finding.check))
                self.mended += self._mend(finding)
            found = list(self.look())
        return found

    def _mend(self, finding: Finding) -> list[str]:
        assert finding.mend
        try:
            return finding.mend()
        except (BackendError, WorkersError) as exc:
            return [f"Not mended: {exc}"]

    def look(self) -> Iterator[Finding]:
        """Look at everything.

        Yields:
            What is found, as it is found.
        """
        try:
            settings = Settings.load(self._environ)
        except SettingsError as exc:
            for line in str(exc).splitlines():
                yield Finding("settings", "wrong", line, "Correct the variable; nothing else was looked at.")
            return
        chain = Chain(settings, self._stack)
        yield from chain.findings()
        if self._project_id is None or chain.wiring is None:
            yield from chain.web(default_url(settings))
        if chain.wiring is None:
            yield Finding("project", "unknown", "Not looked at, since Label Studio is not there for us.")
        elif self._project_id is not None:
            yield from self._project(chain, self._project_id).findings()
        else:
            yield from looked("projects", lambda: self._projects(chain), seconds=PROJECTS_S + 30)

    def _project(self, chain: Chain, project_id: int) -> ProjectChain:
        if chain.queue is None:
            return ProjectChain(chain, None, project_id)
        label_studio = LabelStudio.of(chain.settings, FIX_CALL_S)  # Mending takes longer than looking.
        self._stack.callback(label_studio.close)
        connector = Connector(chain.queue, Wiring(label_studio), chain.settings, project_id)
        return ProjectChain(chain, connector, project_id)

    def _projects(self, chain: Chain) -> Iterator[Finding]:
        assert chain.wiring is not None
        until = time.monotonic() + PROJECTS_S
        ours = seen = 0
        for project in chain.wiring.projects():
            if time.monotonic() > until:
                yield Finding("projects", "note", f"Only {seen} were looked at.", "Name one with --project.")
                return
            seen += 1
            look = self._project(chain, project.id)
            if look.has_us():
                ours += 1
                yield _in_one_line(project.id, project.title, list(look.findings()))
        if not ours:
            move = "`rsrefseg-backend connect --project ID` registers it."
            yield Finding("projects", "note", f"None of {seen} projects has our backend.", move)


def _in_one_line(project_id: int, title: str, found: Iterable[Finding]) -> Finding:
    wrong = [finding for finding in found if finding.state == "wrong"]
    if not wrong:
        return Finding("project", "right", f'Number {project_id}, "{title}", has all that it needs.', "", project_id)
    faults = ", ".join(dict.fromkeys(finding.check for finding in wrong))
    move = f"`rsrefseg-backend doctor --project {project_id}` says more, with --fix it mends."
    return Finding("project", "wrong", f'Number {project_id}, "{title}": {faults}.', move, project_id)


def as_line(finding: Finding) -> Text:
    """Write a finding for a person.

    Args:
        finding: The finding.

    Returns:
        One line.
    """
    said = f"{finding.said} {finding.move}".rstrip()
    return Text.assemble((f"{finding.state:<8}", STYLES[finding.state]), (f"{finding.check:<14}", "bold"), said)


def visit(environ: Mapping[str, str], project_id: int | None, console: Console, *, fix: bool, as_json: bool) -> bool:
    """Look, mend if asked, and say it.

    Args:
        environ: The environment variables.
        project_id: The project, or None for all.
        console: Where to say it.
        fix: Whether to mend.
        as_json: Say it as one JSON object.

    Returns:
        Whether nothing is wrong in the end.
    """

    def said(findings: Iterable[Finding]) -> Iterator[Finding]:
        for finding in findings:
            if not as_json:
                console.print(as_line(finding), soft_wrap=True)
            yield finding

    with ExitStack() as stack:
        doctor = Doctor(environ, project_id, stack)
        found = list(said(doctor.look()))
        if fix and any(finding.fixable for finding in found):
            found = doctor.mend(found)
            if not as_json:
                console.print(*["", *doctor.mended, ""], sep="\n", soft_wrap=True, markup=False, highlight=False)
            found = list(said(found))
    right = all(finding.state != "wrong" for finding in found)
    if as_json:
        report: dict[str, Any] = {"right": right, "findings": [one.as_dict() for one in found], "mended": doctor.mended}
        console.out(json.dumps(report), highlight=False)
    return right
