"""The documentation says what the code does, and its links lead somewhere."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.house import open_house

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([A-Z_]+)`")


def pages() -> Iterator[Path]:
    """Every page of the repository; what is installed or kept in hidden folders is not ours."""
    yield from ROOT.glob("*.md")
    for folder in ROOT.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            yield from sorted(folder.rglob("*.md"))


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as they are made from their words."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {word.replace(" ", "-") for word in words}


def named_routes(text: str) -> set[str]:
    return set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`\s?]*)`", text))


def test_generated_pages_are_current() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", list(pages()), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        if fragment:
            assert fragment in anchors(target), f"{link}: no such heading"


async def test_http_md_has_every_route_and_code_that_is_served(database_url: str) -> None:
    async with open_house(database_url) as house:
        document = (await house.settle.get("/openapi.json")).json()
    _check_page("http.md", document, everywhere="Every route")


async def test_ledger_md_has_every_route_and_code_that_is_served(database_url: str) -> None:
    async with open_house(database_url) as house:
        document = (await house.ledger.get("/openapi.json")).json()
    _check_page("ledger.md", document, everywhere="Conventions")


def _check_page(name: str, document: dict[str, Any], *, everywhere: str) -> None:
    """Check that a page has the routes of a document and, each in its section, their codes."""
    text = (REFERENCE / name).read_text()
    served = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert named_routes(text) == served
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            section = _section(text, f"`{method.upper()} {path}`") + _section(text, everywhere)
            for status, response in operation["responses"].items():
                for code in _CODE.findall(response["description"]):
                    assert _says(section, status, code), f"{method} {path}: {status} {code}"


def test_logs_md_has_every_event_that_is_logged() -> None:
    described = set(
        re.findall(r"^\| `(\w+)`", (REFERENCE / "logs.md").read_text(), flags=re.MULTILINE)
    )
    logged: set[str] = set()
    for module in (ROOT / "clawsettle").rglob("*.py"):
        source = module.read_text()
        if "structlog.get_logger" in source or "structlog.stdlib.get_logger" in source:
            logged |= set(
                re.findall(
                    r"(?:_log|get_logger\(__name__\))\.(?:debug|info|warning|error|critical|exception)"
                    r'\(\s*"(\w+)"',
                    source,
                )
            )
    assert logged
    assert logged <= described, f"not in logs.md: {sorted(logged - described)}"


def test_guarantees_md_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "explanation" / "guarantees.md").read_text()
    sources = "".join(module.read_text() for module in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named
    assert named <= set(re.findall(r"def (test_\w+)", sources))


def _says(section: str, status: object, code: str) -> bool:
    return re.search(rf"{status}.*`{code}`", section) is not None


def _section(text: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one of any level."""
    found = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", _FENCE.sub("", text), re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"no heading {heading}"
    return found[1]
