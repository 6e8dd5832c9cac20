"""The pages: README is short, links lead to files, and functions that a page names exist."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

from tests.launching import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def links(page: Path) -> list[tuple[str, str]]:
    """The text and the target of every link to a file of the project; code blocks hold none."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [(label, target) for label, target in LINK.findall(text) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The names that a page gives its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names_of(source: Path) -> set[str]:
    """Functions and classes of a file, and `Class.method`."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def test_the_readme_is_read_in_two_minutes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    prose = re.sub(r"```.*?```|^\|.*$|\(\S+\)", "", text, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) <= 2 * 250  # words a minute


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for label, target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"[{label}]({target})"
        assert file.is_relative_to(ROOT), f"[{label}]({target}) leaves the project"
        assert not anchor or anchor in anchors(file), f"[{label}]({target})"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_functions_that_a_page_links_are_in_the_file(page: Path) -> None:
    for label, target in links(page):
        if target.endswith(".py") and re.fullmatch(r"`[\w.]+`", label):
            assert label.strip("`") in names_of((page.parent / target).resolve()), f"[{label}]({target})"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_a_page_runs_exist(page: Path) -> None:
    """`python -m horovod_asl.hands.bundle`; the log's commands are of their commits."""
    if page.name in ("log.md", "CHANGELOG.md"):
        return
    for module in re.findall(r"-m (horovod_asl[\w.]+|benchmarks|tests[\w.]+)", page.read_text(encoding="utf-8")):
        path = ROOT.joinpath(*module.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), module


def test_the_page_on_a_step_names_functions() -> None:
    labels = {label for label, _ in links(ROOT / "docs" / "how-a-step-works.md")}
    assert {"`train_step`", "`_update`", "`Horovod`", "`sync_buffers`"} <= labels


def test_files_of_results_are_cited() -> None:
    """A figure that no page links is a figure that nobody finds."""
    cited = {(page.parent / target).resolve() for page in PAGES for _, target in links(page)}
    assert {file for file in (ROOT / "docs" / "results").iterdir() if file not in cited} == set()


@pytest.mark.parametrize("script", sorted((ROOT / "docs").glob("*.py")), ids=lambda script: script.name)
def test_scripts_of_pictures_import_what_there_is(script: Path) -> None:
    runpy.run_path(str(script), run_name="imported")
    assert script.with_suffix(".png").exists()
