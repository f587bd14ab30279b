"""Nothing that says which versions are installed names a place of its own to take them from."""

import re

import pytest
from training import ROOT

#: The index that everyone has.
PUBLIC = {"pypi.org", "files.pythonhosted.org"}
#: Files that pip and uv read; a checkout need not have those that lock versions.
FILES = ("pyproject.toml", "constraints.txt", "uv.lock", "pylock.toml", "requirements.txt")


def hosts(text: str) -> set[str]:
    """Return the hosts of all addresses in a text, and `file` for those of this machine."""
    found = re.findall(r"(?:(file):/|[a-z+]+://(?:[^/@\s\"']*@)?([\w.-]+))", text)
    return {local or host for local, host in found}


@pytest.mark.parametrize("name", FILES)
def test_no_file_of_versions_names_another_host_than_the_public_index(name: str) -> None:
    path = ROOT / name
    if not path.is_file():
        pytest.skip(f"there is no {name}")
    text = path.read_text()
    assert hosts(text) <= PUBLIC
    assert not re.search(r"^\s*(--|-[fic] )", text, flags=re.M)


def test_every_way_to_name_another_host_is_seen() -> None:
    text = """
        registry = "https://pypi.org/simple"  url = "https://files.pythonhosted.org/packages/a.whl"
        index = "https://me:secret@mirror.example:8080/simple"  path = "file:///opt/wheels/a.whl"
        a @ git+https://github.com/a/b.git
    """
    assert hosts(text) == PUBLIC | {"mirror.example", "file", "github.com"}
