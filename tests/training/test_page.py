"""The table of errors quotes what the code says."""

import re
from pathlib import Path

import trainer

PAGE = Path(trainer.__file__).parent / "training" / "README.md"
SOURCE = "\n".join(path.read_text() for path in Path(trainer.__file__).parent.rglob("*.py"))


def test_every_quoted_error_is_one_of_the_code() -> None:
    table = PAGE.read_text().partition("## Error → fix")[2].partition("\n\nAnd without")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(quoted) > len(rows) > 10
    told = re.sub(r'"\s*f?"', "", SOURCE)
    assert [text for text in quoted if text not in told] == []
