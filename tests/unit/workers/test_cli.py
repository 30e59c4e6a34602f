from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from workers.cli import main


@pytest.mark.parametrize("command", ["run", "status"])
def test_a_misspelt_setting_ends_a_command_with_a_sentence(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSREFSEG_PRESETS", "tiny")
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 2
    assert result.output == "Error: RSREFSEG_PRESETS is not a setting; did you mean RSREFSEG_PRESET?\n"


def test_a_gpu_that_is_not_there_is_said_at_once() -> None:
    command = [sys.executable, "-m", "workers.cli", "run", "--gpus", "all"]
    done = subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: No such GPU")


def test_gpus_are_not_looked_for_where_they_are_simulated() -> None:
    result = CliRunner().invoke(main, ["run", "--simulate", "0.1", "--gpus", "all"])
    assert result.exit_code == 2
    assert "--gpus 0,1,2" in result.output


def test_status_says_that_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 2
    assert "Redis does not answer" in result.output
    assert "Traceback" not in result.output


def test_neither_the_commands_nor_the_queue_nor_the_supervisor_import_torch() -> None:
    script = "import sys, workers.cli, workers.logs; assert not {'torch', 'rsrefseg', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
