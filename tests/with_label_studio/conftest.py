"""A real Label Studio, and the three processes as the README starts them."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page

from ml_backend.label_studio_server import LabelStudioServer
from tests.need import need_label_studio
from tests.with_label_studio.browser import logged_in
from workers.ports import free_port

PATIENCE_S = 180.0

BRUSH_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="target" background="#e63c3c"/></BrushLabels>
  <TextArea name="prompt" toName="image" value="$expression"/>
</View>"""

SHELF_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="target"/></BrushLabels>
</View>"""


def wait_for(look: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """What `look` sees, once it sees something."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)
    return seen


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    home = tmp_path_factory.mktemp("label-studio")
    server = LabelStudioServer.start(need_label_studio(), home, files=home)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def api(label_studio: LabelStudioServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Token {label_studio.token}"}
    with httpx.Client(base_url=label_studio.url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def personal_token(api: httpx.Client) -> str:
    """The user's only one: Label Studio gives no second."""
    return str(api.post("/api/token/").raise_for_status().json()["token"])


@dataclass
class Fleet:
    """Web, worker and courier, started by hand in any order."""

    environment: dict[str, str]
    logs: Path
    url: str
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    COMMANDS = {  # noqa: RUF012 - never changed
        "web": ["rsrefseg-backend", "web"],
        "worker": ["rsrefseg-worker", "run", "--gpus", "cpu"],
        "simulated": ["rsrefseg-worker", "run", "--simulate", "0.01"],
        "simulated anew": ["rsrefseg-worker", "run", "--simulate", "0.02"],
        "courier": ["rsrefseg-backend", "courier"],
    }

    def start(self, *names: str, **environment: str) -> None:
        for name in names:
            program, *arguments = self.COMMANDS[name]
            with self.log(name).open("ab") as output:
                self.running[name] = subprocess.Popen(
                    [str(Path(sysconfig.get_path("scripts")) / program), *arguments],
                    env=self.environment | environment,
                    stdout=output,
                    stderr=output,
                )

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def kill(self, *names: str) -> None:
        for name in names:
            self.running[name].kill()
            self.running.pop(name).wait()

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=90)

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended: {self.log(name).read_text()[-500:]}"
            try:
                return bool(httpx.get(f"{self.url}/health").json().get("model_version"))
            except (httpx.TransportError, ValueError):
                return False

        wait_for(ready)


@pytest.fixture
def fleet(label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[Fleet]:
    """The processes' surroundings; nothing runs yet."""
    fleet = fleet_of(label_studio, tmp_path)
    yield fleet
    fleet.stop()


def fleet_of(label_studio: LabelStudioServer, directory: Path) -> Fleet:
    """A fleet that keeps everything in one folder, and has no REDIS_URL, so that it shares the embedded one."""
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RSREFSEG_", "REDIS_", "LABEL_STUDIO_"))}
    environment = inherited | {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "RSREFSEG_DATA": str(directory / "data"),
        "RSREFSEG_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "RSREFSEG_OPEN_WAIT_S": "30",  # a busy machine is no reason to fail
    }
    return Fleet(environment, directory, f"http://127.0.0.1:{port}")


@dataclass
class Project:
    """A project of the real Label Studio."""

    api: httpx.Client
    id: int
    shelf: int
    """A project for uploads: Label Studio takes files only where a task is nothing but a file."""

    def upload(self, name: str, png: bytes) -> str:
        """Put an image into Label Studio, and say where tasks find it."""
        answer = self.api.post(
            f"/api/projects/{self.shelf}/import", params={"commit_to_project": "false"}, files={"file": (name, png)}
        )
        [number] = answer.raise_for_status().json()["file_upload_ids"]
        kept = self.api.get(f"/api/import/file-upload/{number}").raise_for_status().json()["file"]
        return f"/data/{kept}"

    def add(self, *data: dict[str, Any]) -> list[int]:
        answer = self.api.post(
            f"/api/projects/{self.id}/import", params={"return_task_ids": "true"}, json=[{"data": one} for one in data]
        )
        return list(answer.raise_for_status().json()["task_ids"])

    def connect(self, url: str, **extra_params: Any) -> httpx.Response:
        backend = {"url": url, "project": self.id, "title": "RSRefSeg", "is_interactive": True}
        return self.api.post("/api/ml", json=backend | ({"extra_params": extra_params} if extra_params else {}))

    def retrieve(self) -> None:
        everything = {"selectedItems": {"all": True, "excluded": []}}
        where = {"id": "retrieve_tasks_predictions", "project": self.id}
        self.api.post("/api/dm/actions", params=where, json=everything).raise_for_status()

    def predictions(self) -> list[dict[str, Any]]:
        return list(self.api.get("/api/predictions", params={"project": self.id}).raise_for_status().json())


@pytest.fixture
def project(api: httpx.Client) -> Project:
    return create_project(api, BRUSH_CONFIG)


def create_project(api: httpx.Client, config: str, title: str = "Scenes") -> Project:
    """A project with a labeling config, and its shelf."""
    ids = []
    for name, xml in [(title, config), ("Shelf", SHELF_CONFIG)]:
        answer = api.post("/api/projects", json={"title": name, "label_config": xml})
        ids.append(int(answer.raise_for_status().json()["id"]))
    return Project(api, *ids)


@pytest.fixture
def page(label_studio: LabelStudioServer) -> Iterator[Page]:
    with logged_in(label_studio) as page:
        yield page
