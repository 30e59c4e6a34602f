"""docs/settings.md is the table of `workers.settings`; WRITE_DOCS=1 writes it anew."""

import os
from pathlib import Path

from workers.settings import Settings

PAGE = Path("docs/settings.md")
HEAD = """# Settings

Every setting is an environment variable, read once when a command starts. A misspelt `RSREFSEG_*` name is refused, with
the nearest right one. The web process, the courier and the workers read the same table; each uses what it needs.

| variable | default | meaning |
|---|---|---|
"""


def table() -> str:
    rows = []
    for variable, name in Settings.variables().items():
        field = Settings.model_fields[name]
        default = "" if field.default is None or str(field.default) in ("", "()") else f"`{field.default}`"
        if "SecretStr" in repr(field.annotation):
            default = ""
        rows.append(f"| `{variable}` | {default} | {field.description} |\n")
    return HEAD + "".join(rows)


def test_every_setting_is_in_the_docs():
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(table())
    assert PAGE.read_text() == table()
