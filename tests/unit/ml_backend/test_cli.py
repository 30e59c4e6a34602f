from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("RSREFSEG_", "REDIS_", "LABEL_"))}
    return subprocess.run(
        [sys.executable, "-m", "ml_backend.cli", *arguments],
        env=keep | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def taken() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What the user sees, if the command ended as it should."""
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    return line


def test_a_taken_port_is_named(taken: socket.socket) -> None:
    port = str(taken.getsockname()[1])
    with taken:
        sentence = one_sentence(run("web", "--port", port))
    assert port in sentence
    assert "--port" in sentence


def test_an_address_that_is_not_this_machines_is_named() -> None:
    assert "192.0.2.1" in one_sentence(run("web", "--host", "192.0.2.1"))


@pytest.mark.parametrize("command", ["web", "courier"])
def test_a_misspelt_setting_is_named(command: str) -> None:
    assert "RSREFSEG_PORT" in one_sentence(run(command, RSREFSEG_PROT="1"))


@pytest.mark.parametrize(
    "command", ["web", "courier", "prelabel --project 3", "connect --project 3", "models list --project 3"]
)
def test_a_redis_that_is_away_is_named(command: str, taken: socket.socket) -> None:
    with taken:
        free = taken.getsockname()[1]
    url = f"redis://127.0.0.1:{free}/0"
    sentence = one_sentence(run(*command.split(), REDIS_URL=url, LABEL_STUDIO_API_KEY="key", RSREFSEG_PORT="39517"))
    assert "Redis" in sentence


@pytest.mark.parametrize("command", [["courier"], ["prelabel", "--project", "3"], ["connect", "--new", "Harbour"]])
def test_a_command_without_a_key_says_where_to_get_one(command: list[str]) -> None:
    sentence = one_sentence(run(*command))
    assert "LABEL_STUDIO_API_KEY" in sentence
    assert "Account & Settings" in sentence


@pytest.mark.parametrize("options", [[], ["--project", "3", "--new", "Harbour"]])
def test_connect_wants_one_project(options: list[str]) -> None:
    assert "--new TITLE" in one_sentence(run("connect", *options, LABEL_STUDIO_API_KEY="key"))


def test_the_doctor_names_a_misspelt_setting_in_a_line_of_its_own() -> None:
    done = run("doctor", RSREFSEG_PROT="1")
    assert done.returncode == 1
    assert "did you mean RSREFSEG_PORT?" in done.stdout
    assert done.stderr == ""


def test_the_web_process_imports_no_model_and_no_sdk() -> None:
    heavy = "torch", "rsrefseg", "label_studio_sdk", "PIL", "pandas", "cv2"
    code = f"import sys, ml_backend.cli, ml_backend.server; sys.exit(str(set({heavy}) & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_every_module_says_what_it_is_for() -> None:
    for path in (Path(__file__).parents[3] / "ml_backend").glob("*.py"):
        assert path.read_text().startswith('"""'), path
