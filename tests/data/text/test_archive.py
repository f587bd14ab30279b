"""Archives are read in place: only plain files, and nothing that could lead out of them."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import make_tgz, make_zip

from trainer.data.text.archive import member_bytes, open_member, zip_sizes
from trainer.data.text.pieces import read_pieces
from trainer.data.text.source import TextFile
from trainer.errors import InputError

WANTED = "corpus/train.txt"
TEXT = b"the cat sat\n" * 9000


def read(archive: Path, name: str) -> bytes:
    with open_member(archive, name) as stream:
        return stream.read()


MAKERS = {"zip": make_zip, "tgz": make_tgz}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes an archive of either kind, alone in a folder."""
    maker, suffix = MAKERS[request.param], request.param
    (tmp_path / "in").mkdir()
    return lambda *args, **kwargs: maker(tmp_path / "in" / f"corpus.{suffix}", *args, **kwargs)


def test_a_member_is_read_whole_and_measured(make: Callable[..., Path]) -> None:
    archive = make({"corpus/other": b"x", WANTED: TEXT})
    assert member_bytes(archive, WANTED) == len(TEXT)
    assert read(archive, WANTED) == TEXT


def test_pieces_of_a_member_are_those_of_the_file(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    text = "".join(f"word{i} naïve\n" for i in range(20_000)).encode()
    (tmp_path / "plain.txt").write_bytes(text)
    packed = TextFile(make({WANTED: text}), "packed", "text", WANTED)
    plain = TextFile(tmp_path / "plain.txt", "plain", "text")
    n_read: list[int] = []
    assert [*read_pieces([packed], on_read=n_read.append)] == [*read_pieces([plain])]
    assert sum(n_read) == packed.n_bytes == plain.n_bytes == len(text)


@pytest.mark.parametrize(
    "name", ["../evil", "corpus/../../evil", "/tmp/evil", "..\\evil", "\\evil"]
)
def test_an_archive_with_a_name_that_leads_out_of_it_is_refused(
    make: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    archive = make({WANTED: TEXT, name: b"evil"})
    for wanted in (WANTED, name):
        with pytest.raises(InputError, match=r"unsafe: its entry .*evil' leads out of it"):
            read(archive, wanted)
    assert [path.name for path in tmp_path.rglob("*")] == ["in", archive.name]


def test_a_link_is_not_followed(make: Callable[..., Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    archive = make({"corpus/real": TEXT, WANTED: str(secret).encode()}, links=(WANTED,))
    for ask in (read, member_bytes):
        with pytest.raises(InputError, match=f"unsafe: {WANTED} is a link"):
            ask(archive, WANTED)


@pytest.mark.parametrize(
    "kind", [tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_nothing_but_a_plain_file_is_read_from_a_tar(tmp_path: Path, kind: bytes) -> None:
    entries = {"corpus/real": TEXT, WANTED: b"corpus/real"}
    archive = make_tgz(tmp_path / "a.tgz", entries, links=(WANTED,), kind=kind)
    with pytest.raises(InputError, match="unsafe"):
        read(archive, WANTED)


def test_what_is_no_archive_or_another_one_or_damaged_is_one_clear_error(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    archive = make({"corpus/other": TEXT, WANTED: TEXT})
    with pytest.raises(InputError, match="holds no corpus/valid"):
        member_bytes(archive, "corpus/valid")
    damaged = bytearray(archive.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    for content in (b"", b"no archive", damaged[: len(damaged) // 2], damaged):
        archive.write_bytes(content)
        with pytest.raises(InputError, match=r"corpus\.\w+: (cannot be read as|holds no) "):
            [read(archive, name) for name in ("corpus/other", WANTED)]
    assert not (tmp_path / "corpus").exists()


def test_a_zip_file_of_an_entry_without_a_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("x", "abc")
    content = bytearray(path.read_bytes())
    entry, end = content.rindex(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    content[entry + 28], content[end + 12] = 0, content[end + 12] - 1  # lengths
    del content[entry + 46]
    path.write_bytes(content)
    with pytest.raises(InputError, match="a file without a name"):
        zip_sizes(path)
