"""The pages for people lead where they say."""

import re
from pathlib import Path

import pytest
from page_commands import PAGES, ROOT

MAX_LINES = 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    inner = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in inner if link and not (page.parent / link).exists()] == []


def anchor_of(heading: str) -> str:
    """Return what a heading is linked by."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_a_heading_that_is_linked_is_there() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s:]*#[^)\s]+)\)", page.read_text()):
            file, _, anchor = link.partition("#")
            text = (page.parent / file if file else page).read_text()
            headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
            assert anchor in map(anchor_of, headings), link


def test_the_front_door_is_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= MAX_LINES
