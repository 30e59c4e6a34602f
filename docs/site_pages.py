"""Pages of the site that lie elsewhere in the repository, and links that lead out of docs/."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]

ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/README.md": "examples.md",
    "rsrefseg/weights/tiny/card.md": "card.md",
}
"""Files of the repository, and where the site has them."""

LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie elsewhere.

    Args:
        files: What docs/ holds.
        config: Of the site.

    Returns:
        All pages.
    """
    for source, page in ELSEWHERE.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files of the repository into links to pages; to what the site has not, into plain words.

    Args:
        markdown: A page's text.
        page: The page.

    Returns:
        The text with links that the site can follow.
    """
    here = page.file.src_uri
    source = next((source for source, name in ELSEWHERE.items() if name == here), f"docs/{here}")

    def turned(link: re.Match[str]) -> str:
        label, target, anchor = link[1], link[2], link[3] or ""
        if not target or ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        found = ELSEWHERE.get(path) or ELSEWHERE.get(f"{path}/README.md") or _in_docs(path)
        return f"[{label}]({_from(here, found)}{anchor})" if found else label

    return LINK.sub(turned, markdown)


def _in_docs(path: str) -> str:
    # A file that is missing keeps its name, so that the build refuses the link.
    if path.startswith("docs/"):
        return "" if (ROOT / path).is_dir() else path.removeprefix("docs/")
    return "" if (ROOT / path).exists() else path


def _from(here: str, target: str) -> str:
    return posixpath.relpath(target, posixpath.dirname(here) or ".")
