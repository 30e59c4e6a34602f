"""What contributors rely on is what it says it is: versions, hooks, workflows and forms."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.reference import PROGRAMS

FORMS = sorted(Path(".github/ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOWS = sorted(Path(".github/workflows").glob("*.yml"))
MAKE = re.compile(r"^\s*(?:- run:|run:|entry:) make ([\w-]+)", re.MULTILINE)


def declared() -> str:
    return str(tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"])


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_commands_say_the_version_of_the_project(program: str):
    assert version("rsrefseg") == declared(), "installed is another version: make setup"
    said = CliRunner().invoke(PROGRAMS[program], ["--version"], prog_name=program).output
    assert said == f"{program}, version {declared()}\n"


def test_the_changelog_begins_with_what_is_not_released_and_knows_the_version():
    headings = re.findall(r"^## (.+)$", Path("CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [tuple(map(int, heading.split(" - ")[0].split("."))) for heading in headings[1:]]
    assert released == sorted(released, reverse=True)
    ours = tuple(map(int, declared().split(".")))
    assert not released or ours == released[0], "the newest heading is not the version of pyproject.toml"


def passes(*command: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_and_forms_are_of_the_form_that_github_reads():
    assert WORKFLOWS
    assert FORMS
    passes("check_jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    config = Path(".github/ISSUE_TEMPLATE/config.yml")
    passes("check_jsonschema", "--builtin-schema", "vendor.github-issue-config", config)
    forms = [form for form in FORMS if form != config]
    passes("check_jsonschema", "--builtin-schema", "vendor.github-issue-forms", *forms)


def test_the_hooks_are_of_the_form_that_pre_commit_reads_and_download_nothing():
    passes("pre_commit", "validate-config")
    repositories = yaml.safe_load(Path(".pre-commit-config.yaml").read_text())["repos"]
    assert {repository["repo"] for repository in repositories} == {"local"}


@pytest.mark.parametrize("file", [Path(".pre-commit-config.yaml"), *WORKFLOWS], ids=str)
def test_hooks_and_workflows_call_words_of_the_makefile_and_of_the_project(file: Path):
    words = MAKE.findall(file.read_text())
    targets = set(re.findall(r"^([\w-]+):", Path("Makefile").read_text(), re.MULTILINE))
    assert words
    assert set(words) <= targets
    for script in re.findall(r"run: (\.ci/\w+)", file.read_text()):
        assert os.access(script, os.X_OK)
