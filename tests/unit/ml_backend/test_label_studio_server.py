from pathlib import Path

import pytest

from ml_backend.errors import StartFailed
from ml_backend.label_studio_server import LabelStudioServer


def command(tmp_path: Path, script: str) -> Path:
    program = tmp_path / "bin" / "label-studio"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_a_missing_command_says_how_to_get_it(tmp_path):
    with pytest.raises(StartFailed, match="make setup"):
        LabelStudioServer.start(tmp_path / "label-studio", tmp_path / "home", tmp_path)


def test_a_database_that_cannot_be_laid_out_points_to_the_log(tmp_path):
    with pytest.raises(StartFailed, match=r"label-studio\.log"):
        LabelStudioServer.start(command(tmp_path, "exit 3"), tmp_path / "home", tmp_path)


def test_a_server_that_ends_at_once_is_told_with_its_code(tmp_path):
    script = '[ "$1" = version ] && exec touch "$LABEL_STUDIO_BASE_DATA_DIR/label_studio.sqlite3"; exit 4'
    with pytest.raises(StartFailed, match="ended with code 4"):
        LabelStudioServer.start(command(tmp_path, script), tmp_path / "home", tmp_path)
