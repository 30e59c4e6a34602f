"""`pip install .` without extras: a web process without torch that starts at once."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.need import need_backend_python
from workers.ports import free_port


@pytest.fixture
def python() -> Path:
    return need_backend_python()


def test_there_is_no_torch_in_a_base_install(python: Path):
    done = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in done.stderr


def test_every_module_of_the_backend_imports_without_torch(python: Path):
    code = (
        "import importlib, pkgutil, ml_backend\n"
        "for module in pkgutil.iter_modules(ml_backend.__path__):\n"
        "    if module.name != 'label_studio_ml_model':\n"
        "        importlib.import_module(f'ml_backend.{module.name}')\n"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_model_for_the_official_server_says_what_it_lacks(python: Path):
    done = subprocess.run([python, "-c", "import ml_backend.label_studio_ml_model"], capture_output=True, text=True)
    assert "ImportError: label-studio-ml 2 is not installed" in done.stderr
    assert "docs/official-server.md" in done.stderr


def test_the_web_process_imports_nothing_before_it_listens_that_it_may_never_need(python: Path, tmp_path: Path):
    """Each of these takes longer than all the rest: the process listens after about a second of one core."""
    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RSREFSEG_", "REDIS_", "LABEL_STUDIO_"))}
    ours = {"RSREFSEG_PORT": str(port), "RSREFSEG_DATA": str(tmp_path), "PYTHONPROFILEIMPORTTIME": "1"}
    start(python, port, kept | ours)
    imported = set(re.findall(r"^import time: .*\| +(\S+)$", (tmp_path / "web.log").read_text(), re.MULTILINE))
    assert {"flask", "gunicorn", "ml_backend.web"} <= imported
    assert not imported & {"cv2", "label_studio_sdk", "matplotlib", "pandas", "torch"}


def start(python: Path, port: int, environment: dict[str, str]) -> None:
    began = time.monotonic()
    with (Path(environment["RSREFSEG_DATA"]) / "web.log").open("ab") as log:
        process = subprocess.Popen([python.parent / "rsrefseg-backend", "web"], env=environment, stdout=log, stderr=log)
    try:
        while True:
            assert time.monotonic() - began < 30, "the web process does not listen"
            try:
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.01)
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_a_simulated_worker_needs_no_torch(python: Path, tmp_path: Path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RSREFSEG_", "REDIS_", "LABEL_STUDIO_"))}
    command = [python.parent / "rsrefseg-worker", "run", "--simulate", "0.05"]
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=kept | {"RSREFSEG_DATA": str(tmp_path)}, stderr=file)
    try:
        deadline = time.monotonic() + 60
        while "Listening on" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_a_worker_without_its_extra_says_what_to_install(python: Path, tmp_path: Path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RSREFSEG_", "REDIS_", "LABEL_STUDIO_"))}
    done = subprocess.run(
        [python.parent / "rsrefseg-worker", "run"],
        env=kept | {"RSREFSEG_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "worker" in done.stderr
    assert "Traceback" not in done.stderr


def test_traces_that_are_wanted_without_their_extra_are_a_warning_and_no_end(python: Path):
    code = (
        "import logging\nlogging.basicConfig()\nfrom workers import traces\nfrom workers.settings import Settings\n"
        "traces.start(Settings(traces_url='http://127.0.0.1:9/v1/traces'), 'rsrefseg-web')\n"
        "with traces.call('/predict', None):\n    print('goes on')"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "goes on", done.stderr
    assert "traces not sent" in done.stderr
