"""`connect` and `doctor` on the real Label Studio: what is broken there is found, and `--fix` mends it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ml_backend.doctor import visit
from ml_backend.label_studio_server import LabelStudioServer
from tests.factories import make_png
from tests.with_label_studio.conftest import Fleet, Project, wait_for

VERSION = "simulated@0.01s"
COMMAND = str(Path(sysconfig.get_path("scripts")) / "rsrefseg-backend")


def run(fleet: Fleet, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, *arguments], env=fleet.environment | environ, capture_output=True, text=True, timeout=250, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def doctor(fleet: Fleet, project_id: int, *options: str, **environ: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and what is wrong by its check."""
    console = Console(file=io.StringIO())
    # Here and not as a command, which takes seconds to import what it needs.
    right = visit(fleet.environment | environ, project_id, console, fix="--fix" in options, as_json=True)
    found = json.loads(console.file.getvalue())["findings"]  # type: ignore[attr-defined]
    return int(not right), {finding["check"]: finding for finding in found if finding["state"] == "wrong"}


@pytest.fixture
def empty(project: Project) -> int:
    """A project without labeling config."""
    answer = project.api.post("/api/projects", json={"title": "Empty"})
    return int(answer.raise_for_status().json()["id"])


def test_a_fresh_project_is_all_wrong_and_connect_makes_it_right(fleet: Fleet, project: Project, empty: int):
    code, wrong = doctor(fleet, empty)
    assert code == 1
    assert set(wrong) == {"workers", "model", "courier", "web", "config", "backend"}

    fleet.start("web", "simulated", "courier")
    fleet.wait_until_ready()
    wait_for(lambda: set(doctor(fleet, empty)[1]) == {"config", "backend"})
    done = run(fleet, "connect", "--project", str(empty))
    assert done.returncode == 0, done.stderr
    assert f"/projects/{empty}/data" in done.stdout
    assert doctor(fleet, empty) == (0, {})
    assert "All was right already." in run(fleet, "connect", "--project", str(empty)).stdout

    settings = project.api.get(f"/api/projects/{empty}/").json()
    assert (settings["sampling"], settings["model_version"]) == ("Uncertainty sampling", "RSRefSeg")
    [backend] = project.api.get("/api/ml", params={"project": empty}).json()
    assert (backend["url"], backend["is_interactive"], backend["state"]) == (fleet.url, True, "CO")
    [hook] = project.api.get("/api/webhooks/", params={"project": empty}).json()
    assert hook["headers"]["Authorization"].startswith("Bearer ")


@pytest.mark.timeout(600)  # Some twenty visits, each with several calls of Label Studio to the web process.
def test_what_is_broken_is_found_and_mended(fleet: Fleet, project: Project):
    fleet.start("web", "simulated", "courier")
    fleet.wait_until_ready()
    image = project.upload("scene.png", make_png((40, 60)))
    project.add(*[{"image": image, "expression": f"the ship {number}"} for number in range(3)])
    assert run(fleet, "connect", "--project", str(project.id)).returncode == 0
    assert run(fleet, "prelabel", "--project", str(project.id), "--wait").returncode == 0

    def change(path: str, **fields: Any) -> None:
        project.api.patch(path, json=fields).raise_for_status()

    def breaks(check: str) -> None:
        code, wrong = doctor(fleet, project.id)
        assert (code, set(wrong)) == (1, {check})
        assert wrong[check]["fixable"]
        assert doctor(fleet, project.id, "--fix") == (0, {})

    # All tasks have their masks, so scores can decide now.
    breaks("sampling")
    settings = project.api.get(f"/api/projects/{project.id}/").json()
    assert settings["model_version"] == VERSION

    [hook] = project.api.get("/api/webhooks/", params={"project": project.id}).json()
    project.api.delete(f"/api/webhooks/{hook['id']}/").raise_for_status()
    breaks("webhook")
    [hook] = project.api.get("/api/webhooks/", params={"project": project.id}).json()
    change(f"/api/webhooks/{hook['id']}/", headers={})
    breaks("webhook")
    change(f"/api/webhooks/{hook['id']}/", headers={"Authorization": "Bearer guessed"})
    breaks("webhook")
    change(f"/api/projects/{project.id}/", model_version="")
    breaks("predictions")
    change(f"/api/projects/{project.id}/", show_collab_predictions=False)
    breaks("predictions")
    [backend] = project.api.get("/api/ml", params={"project": project.id}).json()
    change(f"/api/ml/{backend['id']}", url=fleet.url, project=project.id, is_interactive=False)
    breaks("interactive")
    project.api.delete(f"/api/ml/{backend['id']}").raise_for_status()
    breaks("backend")

    # The event of an annotation comes in with the secret that --fix installed.
    [task, *_] = project.api.get("/api/tasks", params={"project": project.id}).json()["tasks"]
    annotation = {"result": [], "was_cancelled": True}
    project.api.post(f"/api/tasks/{task['id']}/annotations/", json=annotation).raise_for_status()
    assert '"caller refused"' not in fleet.log("web").read_text()


def test_a_worker_that_ended_and_one_that_was_killed_are_missed(fleet: Fleet, project: Project):
    fleet.start("web", "simulated", "courier")
    fleet.wait_until_ready()
    run(fleet, "connect", "--project", str(project.id))
    assert doctor(fleet, project.id) == (0, {})
    fleet.running["courier"].send_signal(signal.SIGTERM)
    fleet.running.pop("courier").wait(30)
    fleet.kill("simulated")
    code, wrong = wait_for(lambda: seen if len((seen := doctor(fleet, project.id))[1]) == 2 else None)
    assert code == 1
    assert set(wrong) == {"workers", "courier"}
    fleet.kill("web")
    _, wrong = doctor(fleet, project.id)
    assert {"web", "backend"} < set(wrong)
    assert "rsrefseg-backend web" in wrong["web"]["said"]


def test_a_config_whose_label_went_away_makes_predictions_unfit(fleet: Fleet, project: Project):
    fleet.start("web", "simulated", "courier")
    fleet.wait_until_ready()
    image = project.upload("scene.png", make_png((40, 60)))
    project.add({"image": image, "expression": "the ship"})
    run(fleet, "connect", "--project", str(project.id))
    run(fleet, "prelabel", "--project", str(project.id), "--wait")
    doctor(fleet, project.id, "--fix")
    config = project.api.get(f"/api/projects/{project.id}/").json()["label_config"].replace('"target"', '"pier"')
    project.api.patch(f"/api/projects/{project.id}/", json={"label_config": config}).raise_for_status()
    code, wrong = doctor(fleet, project.id)
    assert (code, set(wrong)) == (1, {"predictions"})
    assert "do not fit" in wrong["predictions"]["said"]


def test_a_personal_access_token_and_a_new_project(fleet: Fleet, personal_token: str):
    token = personal_token
    fleet.start("web", "simulated", "courier", LABEL_STUDIO_API_KEY=token)
    fleet.wait_until_ready()
    made = run(fleet, "connect", "--new", "Harbour", LABEL_STUDIO_API_KEY=token)
    assert made.returncode == 0, made.stderr
    number = int(made.stdout.splitlines()[-1].split("/")[-2])
    report = run(fleet, "doctor", "--project", str(number), LABEL_STUDIO_API_KEY=token)
    assert report.returncode == 0, report.stdout
    assert "personal access token" in report.stdout
    assert token not in report.stdout


def test_a_name_and_a_password_reach_the_web_process(fleet: Fleet, project: Project):
    secured = {"RSREFSEG_BASIC_USER": "label-studio", "RSREFSEG_BASIC_PASSWORD": "a password"}
    fleet.environment.update(secured)
    fleet.start("web", "simulated", "courier")
    wait_for(lambda: set(doctor(fleet, project.id)[1]) == {"backend"})
    assert run(fleet, "connect", "--project", str(project.id)).returncode == 0
    assert doctor(fleet, project.id) == (0, {})
    _, wrong = doctor(fleet, project.id, RSREFSEG_BASIC_PASSWORD="another")
    assert set(wrong) == {"web"}


def test_a_label_studio_with_its_switches_on_names_both(fleet: Fleet, tmp_path: Path, label_studio: LabelStudioServer):
    from ml_backend import label_studio_server

    command = Path(os.environ.get("LABEL_STUDIO_COMMAND", ".venv-label-studio/bin/label-studio"))
    with pytest.MonkeyPatch.context() as patch:
        usual = label_studio_server._environment
        switches = {"ML_BLOCK_LOCAL_IP": "true", "SSRF_PROTECTION_ENABLED": "true"}
        patch.setattr(label_studio_server, "_environment", lambda *given: usual(*given) | switches)
        strict = LabelStudioServer.start(command, tmp_path / "strict", files=tmp_path)
    try:
        fleet.environment |= {"LABEL_STUDIO_URL": strict.url, "LABEL_STUDIO_API_KEY": strict.token}
        fleet.start("web", "simulated")
        fleet.wait_until_ready()
        done = run(fleet, "connect", "--new", "Harbour")
        assert done.returncode == 2
        assert "ML_BLOCK_LOCAL_IP=false" in done.stderr
        assert "SSRF_PROTECTION_ENABLED=false" in done.stderr
    finally:
        strict.stop()
