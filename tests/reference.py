"""The reference pages of the documentation, as the code says them: commands, routes, errors and the Python API."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import click
from flask import Flask

import ml_backend.cli
import ml_backend.errors
import rsrefseg
import rsrefseg.cli
import rsrefseg.errors
import workers.cli
import workers.errors

PROGRAMS = {
    "rsrefseg": rsrefseg.cli.main,
    "rsrefseg-worker": workers.cli.main,
    "rsrefseg-backend": ml_backend.cli.main,
}

ROOMS = (
    ("Of the web process, the courier and `rsrefseg-backend`", ml_backend.errors),
    ("Of the queue, the workers and `rsrefseg-worker`", workers.errors),
    ("Of the model and `rsrefseg`", rsrefseg.errors),
)

MOVES = {
    ml_backend.errors.BadRequest: ("the asker's", "Change what was asked, as the sentence says; it names the field."),
    ml_backend.errors.Unauthorised: ("the asker's", "Show the name and password, or the secret, of access.md."),
    ml_backend.errors.Unavailable: ("nobody's", "Wait: it is tried again, with growing pauses."),
    ml_backend.errors.Broken: ("the operator's", "Do what the sentence says, and look with `rsrefseg-backend doctor`."),
    ml_backend.errors.KeyRefused: ("the operator's", "Put a valid token into LABEL_STUDIO_API_KEY."),
    ml_backend.errors.AddressBlocked: (
        "the operator's",
        "Run Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false.",
    ),
    ml_backend.errors.TaskGone: ("nobody's", "Nothing: what was drawn for it is dropped."),
    workers.errors.SettingsError: ("the operator's", "Mend the environment; settings.md lists every variable."),
    workers.errors.RedisServerError: ("the operator's", "Do what the sentence says, or set REDIS_URL."),
    workers.errors.NoSuchVersion: ("the operator's", "Choose one that `rsrefseg-backend models list` shows."),
    workers.errors.VersionPruned: ("the operator's", "Train a new version, as the sentence says."),
    workers.errors.NoSnapshot: ("the operator's", "Ask for a training, as the sentence says."),
    workers.errors.ImageRefused: (
        "the annotator's or the operator's",
        "Replace the image or allow its host, as the sentence says; `rsrefseg-worker status` lists it.",
    ),
    workers.errors.Unavailable: ("nobody's", "Wait: it is tried again, with growing pauses."),
    rsrefseg.errors.BadRequest: ("the asker's", "Give another image, expression or folder, as the sentence says."),
    rsrefseg.errors.Unavailable: ("nobody's", "Try again; what came already is kept."),
    rsrefseg.errors.MissingWeights: ("the operator's", "Run `rsrefseg weights fetch`, as the sentence says."),
    rsrefseg.errors.Broken: ("the operator's", "Mend the installation or the checkpoint, as the sentence says."),
}
"""Of each branch, whose move it is and which."""

WRITTEN = (
    "This page is written from the code: a test compares them, and `WRITE_DOCS=1 pytest tests/contracts` rewrites it.\n"
)


def commands_page() -> str:
    """Every program with every command and option."""
    lines = ["# Commands\n", WRITTEN]
    for name, program in PROGRAMS.items():
        lines += [f"## {name}\n", f"{_sentence(program.help)}\n"]
        for path, command in commands_of(program):
            lines += [f"### {name} {' '.join(path)}\n", f"{_prose(command.help)}\n"]
            lines += _parameters(command)
    return "\n".join(lines)


def commands_of(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The commands under a group that do something, with the words that lead to them."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


def _parameters(command: click.Command) -> list[str]:
    rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if not rows:
        return []
    return ["| argument or option | default | meaning |\n|---|---|---|", *rows, ""]


def _row(parameter: click.Parameter) -> str:
    context = click.Context(click.Command("none"))
    if isinstance(parameter, click.Option):
        names = " / ".join([*parameter.opts, *parameter.secondary_opts])
        takes = (
            "" if parameter.is_flag or parameter.count else f" {parameter.make_metavar(context).removesuffix(' RANGE')}"
        )
        meaning = parameter.help or ""
    else:
        names, takes, meaning = parameter.make_metavar(context), "", ""
    meaning, _, said = meaning.partition("  [default: ")
    default = said.rstrip("]") or _default(parameter)
    if parameter.required:
        meaning = f"{meaning} Required.".strip()
    return f"| `{_cell(names + takes)}` | {_cell(default)} | {_cell(meaning)} |"


def _default(parameter: click.Parameter) -> str:
    found = parameter.default
    if getattr(parameter, "is_flag", False) or not isinstance(found, str | int | float | tuple | list):
        found = str(found) if hasattr(found, "__fspath__") else ""
    return "" if found in ("", (), []) else f"`{found}`"


def routes_page(app: Flask) -> str:
    """Every route of the web process."""
    lines = ["# Routes\n", WRITTEN]
    lines.append(
        'The web process answers JSON, errors included: `{"error": "what is wrong and what to do"}`. If it has a name '
        "and a password, every caller shows them by HTTP Basic: [access.md](access.md).\n"
    )
    rules = sorted((rule for rule in app.url_map.iter_rules()), key=lambda rule: rule.rule)
    for rule in rules:
        methods = ", ".join(sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}))
        lines += [f"## {methods} {rule.rule}\n", f"{_docstring(app.view_functions[rule.endpoint])}\n"]
    return "\n".join(lines)


def errors_page(app: Flask) -> str:
    """Every error class, whose move it is, and what a caller of the web process gets."""
    lines = ["# Errors\n", WRITTEN]
    lines.append(
        "What is refused is refused in a sentence that says what to do, never with a stack trace: the commands print "
        "it after `Error:` and end with an exit code that is not 0, the web process answers it as `error`, and of a "
        "task that got no mask `rsrefseg-worker status` shows it. What nobody foresaw is a 500 with an id, under which "
        "the log has the rest.\n"
    )
    for title, module in ROOMS:
        lines += [f"## {title}\n", "| error | meaning | whose move | HTTP | what to do |\n|---|---|---|---|---|"]
        for error in errors_of(module):
            move, remedy = move_of(error)
            status = status_of(app, error)
            lines.append(
                f"| `{error.__name__}` | {_cell(_sentence(error.__doc__))} | {move} | {status or ''} | {remedy} |"
            )
        lines.append("")
    return "\n".join(lines)


def errors_of(module: Any) -> list[type[Exception]]:
    """The error classes of a room, without its root, as they stand in the file."""
    classes = [one for one in vars(module).values() if inspect.isclass(one) and issubclass(one, Exception)]
    return [one for one in classes if one.__module__ == module.__name__ and one.__base__ is not Exception]


def move_of(error: type[Exception]) -> tuple[str, str]:
    """Whose move an error is, and which.

    Raises:
        KeyError: If its branch has no line in `MOVES`.
    """
    for ancestor in error.__mro__:
        if ancestor in MOVES:
            return MOVES[ancestor]
    raise KeyError(error)


def status_of(app: Flask, error: type[Exception]) -> int | None:
    """What the web process answers to an error that it foresees; None where it foresees none."""
    takes = inspect.signature(error.__init__).parameters.values() if inspect.isfunction(error.__init__) else ()
    instance = error(*(_argument(one) for one in list(takes)[1:] if _is_asked(one)))
    foreseen = [one for one in app.error_handler_spec[None][None] if one is not Exception]
    if not isinstance(instance, tuple(foreseen)):
        return None
    with app.test_request_context("/predict", method="POST"):
        return app.make_response(app.handle_user_exception(instance)).status_code


def _is_asked(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD


def _argument(parameter: inspect.Parameter) -> Any:
    return 1 if "int" in str(parameter.annotation) else "Basic" if parameter.name == "scheme" else "a reason"


def python_page() -> str:
    """What `import rsrefseg` offers."""
    lines = ["# Python API\n", WRITTEN, "```python\nfrom rsrefseg import " + ", ".join(rsrefseg.__all__) + "\n```\n"]
    for name in ["Predictor", *(one for one in rsrefseg.__all__ if one != "Predictor")]:
        member = getattr(rsrefseg, name)
        lines += [f"## {name}\n", f"{_docstring(member)}\n"]
        if dataclasses.is_dataclass(member):
            fields = ", ".join(f"`{one.name}`" for one in dataclasses.fields(member) if not one.name.startswith("_"))
            lines.append(f"Fields: {fields}.\n")
        for method, function in vars(member).items():
            if not method.startswith("_") and (inspect.isroutine(function) or isinstance(function, classmethod)):
                plain = getattr(function, "__func__", function)
                lines += [f"### {name}.{method}\n", f"```python\n{method}{_signature(plain)}\n```\n"]
                lines.append(f"{_docstring(plain)}\n")
    return "\n".join(lines)


def _signature(function: Any) -> str:
    found = inspect.signature(function)
    kept = [one for one in found.parameters.values() if one.name not in ("self", "cls")]
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(found.replace(parameters=kept)))


def _docstring(thing: Any) -> str:
    """A Google docstring as Markdown: the sections as bold words, the arguments as a list."""
    lines = []
    section = ""
    for line in inspect.cleandoc(thing.__doc__ or "").splitlines():
        heading = re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields|Source):", line)
        if heading:
            section = heading[1]
            lines += [f"**{section}**", ""]
        elif section in ("Args", "Attributes", "Raises") and (item := re.fullmatch(r"    (\w+): (.*)", line)):
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif section and line.startswith("    "):
            lines.append(line.strip() if section not in ("Args", "Attributes", "Raises") else f"  {line.strip()}")
        else:
            lines.append(line)
    return "\n".join(line.rstrip() for line in lines).strip()


def _sentence(text: str | None) -> str:
    return _prose((text or "").split("\n\n")[0])


def _prose(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text or "").replace("\b", "").split("\n\n"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
