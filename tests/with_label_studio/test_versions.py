"""What Label Studio makes of versions that differ from project to project."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import httpx

from tests.factories import make_version
from tests.with_label_studio.conftest import BRUSH_CONFIG, Fleet, create_project
from workers.registry import Registry

BASE = "simulated@0.01s"


def test_label_studio_learns_of_each_project_which_version_serves_it(fleet: Fleet, api: httpx.Client, tmp_path: Path):
    fleet.start("web", "simulated")
    fleet.wait_until_ready()
    ours, others = (create_project(api, BRUSH_CONFIG, title) for title in ("Ours", "Others"))
    for project in (ours, others):
        project.connect(fleet.url).raise_for_status()
    files = tmp_path / "files"
    files.mkdir()
    registry = Registry(Path(fleet.environment["RSREFSEG_DATA"]))
    for version in ("tiny@1", "tiny@2"):
        registry.add(make_version(version, project_id=ours.id), files)

    def models(*command: str) -> None:
        program = str(Path(sysconfig.get_path("scripts")) / "rsrefseg-backend")
        subprocess.run(
            [program, "models", *command, "--project", str(ours.id)],
            env=fleet.environment,
            check=True,
            capture_output=True,
        )

    def known() -> list[str]:
        # As every page of the data manager asks, which makes Label Studio call /setup.
        rows = [api.get("/api/ml", params={"project": project.id}).json() for project in (ours, others)]
        return [row["model_version"] for [row] in rows]

    assert known() == [BASE, BASE]
    models("promote", "--version", "tiny@1")
    assert known() == ["tiny@1", BASE]
    models("promote", "--version", "tiny@2")
    assert known() == ["tiny@2", BASE]
    models("rollback")
    assert known() == ["tiny@1", BASE]
    models("rollback")
    assert known() == [BASE, BASE]
