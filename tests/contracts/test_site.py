"""The site builds without a link that leads nowhere, loads nothing from other hosts, and has every page in its menu."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_load_nothing_from_other_hosts(site: Path):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = re.findall(r"""<(?:script|img|iframe)[^>]+src="?(https?:[^"\s>]+)""", page.read_text())
        loaded += re.findall(
            r"""<link[^>]+rel="?(?:stylesheet|preconnect)[^>]+href="?(https?:[^"\s>]+)""", page.read_text()
        )
        assert loaded == [], page


def test_links_of_the_repository_lead_somewhere_on_the_site(site: Path):
    assert 'href="../card/"' in (site / "limits" / "index.html").read_text()
    assert (site / "card" / "index.html").exists()
    assert (site / "changelog" / "index.html").exists()


@pytest.mark.parametrize(
    "page", [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(Path("docs").rglob("*.md"))], ids=str
)
def test_links_of_the_repository_lead_somewhere_in_it(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        assert ":" in target or (page.parent / target).exists(), target


def test_every_picture_is_shown_and_can_be_made_anew():
    pages = "".join(page.read_text() for page in [Path("README.md"), *Path("docs").rglob("*.md")])
    pictures = {picture.name for picture in Path("docs").glob("*.jpg")}
    made = set(re.findall(r'keep\("([\w-]+\.jpg)"', Path("docs/pictures.py").read_text()))
    assert pictures <= made
    assert all(f"{picture})" in pages for picture in pictures)


def test_decisions_are_numbered_without_gaps_and_are_all_in_the_menu():
    pages = sorted(page.name for page in Path("docs/decisions").glob("*.md"))
    assert [int(page.split("-")[0]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        number = int(page.split("-")[0])
        assert Path("docs/decisions", page).read_text().startswith(f"# {number}. "), page
    menu = re.findall(r"- decisions/(\S+)", Path("mkdocs.yml").read_text())
    assert menu == pages
