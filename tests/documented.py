"""The commands that the documentation shows, and whether the programs would take them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from tests.reference import PROGRAMS
from workers.settings import Settings

PAGES = (
    *(
        Path(name)
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "examples/README.md")
    ),
    *sorted(Path("docs").glob("**/*.md")),
)
SHELL = ("sh", "bash", "shell", "console")
OTHERS = (
    "make",
    "docker",
    "kubectl",
    "helm",
    "pip",
    "torchrun",
    "redis-cli",
    "buildah",
    "label-studio-ml",
    "curl",
    "git",
)
"""Programs that make a line a command even where its block names no language."""

PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
SPAN = re.compile(r"(?<!`)`((?:rsrefseg(?:-worker|-backend)?|make) [^`]+)`(?!`)")


class Shown(NamedTuple):
    """A command line as a page shows it."""

    page: str
    number: int
    line: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)

    @property
    def in_container(self) -> list[str]:
        """The command alone, if Docker or Kubernetes is asked to run it in a container."""
        words = self.words
        if "exec" not in words:
            return words
        return words[next(at for at in range(words.index("exec"), len(words)) if words[at] in PROGRAMS) :]


def shown_commands() -> list[Shown]:
    """Every command in a block of a page."""
    return [one for page in PAGES if page.exists() for one in _in_blocks(page) if one.words]


def shown_in_prose() -> list[Shown]:
    """Every command that a sentence of a page names, but for those cut short by dots."""
    found = []
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines() if page.exists() else (), 1):
            found += [Shown(str(page), number, span) for span in SPAN.findall(line) if "..." not in span]
    return found


def _in_blocks(page: Path) -> Iterator[Shown]:
    language: str | None = None
    began, held = 0, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if fence := re.match(r"\s*```(\w*)", line):
            language = fence[1] if language is None else None
            continue
        if not held:
            began = number
        held += line.strip()
        if held.endswith("\\"):
            held = held[:-1]
            continue
        first = held.split(" ")[0]
        if language in SHELL or (language == "" and first in (*PROGRAMS, *OTHERS)):
            yield Shown(str(page), began, held)
        held = ""


def check(words: list[str], *, whole: bool = True) -> None:
    """Refuse a command line that its program would not take.

    Args:
        words: The program and what follows.
        whole: Whether it has to be complete, as it is not in a sentence.

    Raises:
        click.UsageError: If an option, an argument or a value is not one.
    """
    if "exec" in words:  # what Docker or Kubernetes is asked to execute in a container
        words = words[next(at for at in range(words.index("exec"), len(words)) if words[at] in PROGRAMS) :]
    program, *arguments = words
    if program == "make":
        _check_make(arguments)
    elif program == "export":
        _check_export(arguments)
    elif program in PROGRAMS:
        _check_click(PROGRAMS[program], arguments, whole=whole)


def _check_click(command: click.Command, arguments: list[str], *, whole: bool) -> None:
    while isinstance(command, click.Group):
        if not arguments:
            if whole:
                raise click.UsageError(f"{command.name} is no whole command")
            return
        name, *arguments = arguments
        if name not in command.commands:
            if name.startswith("--"):
                break
            raise click.UsageError(f"there is no command {name}")
        command = command.commands[name]
    context = click.Context(command, info_name=command.name)
    values, left, _ = command.make_parser(context).parse_args(list(arguments))
    if left:
        raise click.UsageError(f"too many words: {left}")
    for parameter in command.params:
        value = values.get(str(parameter.name))
        given = isinstance(value, str | tuple | list | bool) and value not in ((), [])
        if whole and parameter.required and not given:
            raise click.MissingParameter(param=parameter)
        if isinstance(value, str) and not PLACEHOLDER.fullmatch(value) and not isinstance(parameter.type, click.Path):
            parameter.type_cast_value(context, value)


def _check_make(arguments: list[str]) -> None:
    makefile = Path("Makefile").read_text()
    for word in arguments:
        name, is_variable, _ = word.partition("=")
        known = re.search(rf"\b{name}=|^{name} \?=" if is_variable else rf"^{name}:", makefile, re.MULTILINE)
        if not name.startswith("-") and not known:
            raise click.UsageError(f"the Makefile knows no {word}")


def _check_export(arguments: list[str]) -> None:
    for word in arguments:
        if word.partition("=")[0] not in Settings.variables():
            raise click.UsageError(f"there is no setting {word}")
