"""What the user names is found whole, or refused with the way out; what is left out is told."""

import gzip
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import make_tgz, make_zip
from documents import documents

from trainer.data.text.finding import Found, find_files
from trainer.data.text.source import Reading
from trainer.errors import InputError

LINES = '{"text": "one"}\n{"text": "two"}\n'


def found(path: Path, **how: object) -> Found:
    return find_files(path, Reading(**how))  # type: ignore[arg-type]


def names(of: Found, folder: Path) -> list[str]:
    return [str(file.path.relative_to(folder)) for file in of.files]


def told(of: Found) -> list[str]:
    return [*(one.line() for one in of.left_out), *of.notes]


def test_a_folder_gives_its_texts_sorted_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.text", "d.TXT", "README.md", "build.sh", "e.png", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "c.json").write_text(LINES)
    (tmp_path / "info.json").write_text('{"version": 1, "made": [\n1, 2]}')
    os.mkfifo(tmp_path / "pipe.txt")
    found_here = found(tmp_path)
    assert names(found_here, tmp_path) == ["a/z.text", "b.txt", "c.json", "d.TXT"]
    assert [file.format for file in found_here.files] == ["text", "text", "jsonl", "text"]
    assert told(found_here) == [
        "left out: 2 files (build.sh, e.png): no text by their suffix",
        "left out: 1 file (README.md): documentation or source beside data (--suffixes reads them)",
        "left out: 1 file (info.json): a JSON document, not JSON lines",
        "left out: 1 file (.DS_Store): hidden",
        "left out: 1 file (pipe.txt): a pipe, socket or device",
    ]


def test_settings_in_json_beside_source_do_not_make_the_source_documentation(
    tmp_path: Path,
) -> None:
    for name in ("a.py", "README.md"):
        (tmp_path / name).write_text("text")
    (tmp_path / "package.json").write_text('{\n  "name": "x"\n}\n')
    assert names(found(tmp_path), tmp_path) == ["README.md", "a.py"]


def test_links_are_followed_and_named_and_what_is_read_already_is_told(tmp_path: Path) -> None:
    for name in ("f/a.txt", "other/z.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    (tmp_path / "f" / "linked").symlink_to("../other")
    (tmp_path / "f" / "again.txt").symlink_to("a.txt")
    (tmp_path / "f" / "old.png").symlink_to("nowhere.png")
    of = found(tmp_path / "f")
    assert documents(tmp_path / "f") == ["f/a.txt", "other/z.txt"]
    assert told(of) == [
        "left out: 1 link (again.txt): read already under another name",
        "left out: 1 link (old.png): broken links",
        f"links followed out of {tmp_path}/f: 1 (linked -> {tmp_path}/other)",
    ]


@pytest.mark.parametrize("name", ["b.txt", "folder", "c.jsonl.gz", "README.md"])
def test_broken_links_that_may_be_text_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / name).symlink_to("../nowhere")
    with pytest.raises(InputError, match=rf"1 broken link \({name} -> ../nowhere\)"):
        found(tmp_path)
    with pytest.raises(InputError, match=rf"{name}: a broken link to ../nowhere"):
        found(tmp_path / name)


def test_a_file_that_is_named_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    for name in ("enwik8", "wiki.train.raw", "README.md", ".hidden"):
        (tmp_path / name).write_text("text")
        assert documents(tmp_path / name) == ["text"]


def test_other_suffixes_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    for name in ("a.txt", "b.py", "c.raw"):
        (tmp_path / name).write_text(name)
    assert documents(tmp_path, suffixes=(".py", ".raw")) == ["b.py", "c.raw"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"none of 0 files is a text; in folders these are read: \.txt"),
        ({"a": b"x", "b.png": b"x"}, r"none of 2 files \(a, b.png\) is a text"),
        ({"a.orc": b"ORC\x11\x00\x15"}, "none .*a.orc: this is an ORC table.*pyarrow"),
        ({"a.txt": b"x", "b.txt.lz4": b"\x04\x22\x4d\x18\x64"}, "b.txt.lz4: this is LZ4.*-d"),
        ({"a.txt": b"\x89PNG\r\n\x1a\n\x00"}, "a.txt: this is a PNG image, not text"),
        ({"data.json": b'[{"text": "a"}]'}, "none of 1 file .* jq -c"),
    ],
)
def test_a_folder_without_a_text_or_with_one_that_is_none_is_refused(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        found(tmp_path)


def test_what_cannot_be_read_twice_or_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such file or folder"):
        found(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe it in as -"):
        found(tmp_path / "pipe")


def test_a_zip_of_one_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "enwik8.zip", {"enwik8": b"\xef\xbb\xbfone\n"})
    assert documents(archive) == ["one\n"]
    assert told(found(archive)) == []


def test_a_zip_of_several_files_is_read_as_a_folder_and_says_which(tmp_path: Path) -> None:
    entries = {
        "t/b.txt": b"\xef\xbb\xbfb",
        "t/a.json": LINES.encode(),
        "README.md": b"about",
        "__MACOSX/._b.txt": b"\0\5",
        "t/c.png": b"png",
    }
    archive = make_zip(tmp_path / "books", entries)
    assert documents(archive) == ["one", "two", "b"]
    assert told(found(archive)) == [
        f"left out: 1 file ({archive}: t/c.png): no text by their suffix",
        f"left out: 1 file ({archive}: README.md): "
        "documentation or source beside data (--suffixes reads them)",
        f"left out: 1 file ({archive}: __MACOSX/._b.txt): hidden",
        f"read from {archive}: 2 of 5 files (t/a.json, t/b.txt)",
    ]


def test_a_zip_of_many_files_is_opened_once_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_zip(tmp_path / "a.zip", {f"{i:03}.txt": b"x%d" % i for i in range(300)})
    opened = []
    init = zipfile.ZipFile.__init__

    def counting(self: zipfile.ZipFile, *args: object, **kwargs: object) -> None:
        opened.append(args)
        init(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(zipfile.ZipFile, "__init__", counting)
    assert documents(archive) == [f"x{i}" for i in range(300)]
    assert len(opened) < 10


def an_archive_of_torch() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.ones(3)}, file)
    return file.getvalue()


def an_archive_of_numpy() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3), b=np.ones(2))
    return file.getvalue()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "an empty zip archive"),
        ({"a": b"x", "b": b"y"}, r"none of 2 files \(a, b\) is a text by its suffix"),
        ({"[Content_Types].xml": b"<", "word/document.xml": b"<"}, "an Office document"),
        ({"mimetype": b"application/epub+zip", "a.txt": b"x"}, "an EPUB"),
        ({"META-INF/MANIFEST.MF": b"x", "a.txt": b"y"}, "a Java archive"),
        ({"a.tar": b""}, None),
        ({"../a.txt": b"x"}, "unsafe: its entry '../a.txt' leads out of it"),
        ({"a.txt": b"\x89PNG\r\n\x1a\n\x00"}, "zip: a.txt: this is a PNG image"),
    ],
)
def test_zip_archives_without_a_text_are_refused(
    tmp_path: Path, entries: dict[str, bytes], message: str | None
) -> None:
    archive = make_zip(tmp_path / "a.zip", entries)
    if message is None:
        assert documents(archive) == [""]
        return
    with pytest.raises(InputError, match=message):
        found(archive)


def test_zip_archives_that_are_something_else_or_damaged_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = make_zip(tmp_path / "a.zip", {"a.txt": b"text\n" * 9999, "b.txt": b"b"}).read_bytes()
    flipped = bytearray(whole)
    flipped[60] ^= 0x10
    for content, message in (
        (an_archive_of_torch(), "this is a PyTorch file: it holds weights"),
        (an_archive_of_numpy(), "this is NumPy arrays"),
        (whole[:-30], "cannot be read as a zip"),
        (whole[: len(whole) // 2], "cannot be read as a zip"),
        (bytes(flipped), "a.txt: cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"file.*{message}"):
            documents(path)


def test_a_zip_with_two_files_of_one_name_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a.txt": b"one", "b.txt": b"two"})
    archive.write_bytes(archive.read_bytes().replace(b"b.txt", b"a.txt"))
    with pytest.raises(InputError, match=r"a.zip: has two files of the name a.txt: unpack it"):
        found(archive)


def test_an_encrypted_member_is_refused_as_such(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a.txt": b"secret", "b.txt": b"b"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # in the file's own header, and in the central directory's
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"a.txt is encrypted: unpack it with its password"):
        found(archive)


@pytest.mark.parametrize("tokenizer_takes_bytes", [False, True])
def test_packed_containers_are_refused_by_name_whatever_the_tokenizer(
    tmp_path: Path, tokenizer_takes_bytes: bool
) -> None:
    tgz = make_tgz(tmp_path / "my books.tgz", {"a.txt": b"x"})
    with pytest.raises(InputError) as refusal:
        found(tgz, as_bytes=tokenizer_takes_bytes)
    message = str(refusal.value)
    assert message.startswith(
        f"{tgz}: this is gzip of a tar archive, not text: unpack it (tar -xf '"
    )
    assert ("--format raw" in message) == tokenizer_takes_bytes
    assert documents(tgz, format="raw", as_bytes=True) == [tgz.read_bytes().decode("latin-1")]


def test_a_zip_inside_a_packed_file_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a.txt": b"x"})
    (tmp_path / "a.zip.gz").write_bytes(gzip.compress(archive.read_bytes()))
    with pytest.raises(InputError, match="this is gzip of a zip archive"):
        found(tmp_path / "a.zip.gz")
    for _ in range(4):
        archive.write_bytes(gzip.compress(archive.read_bytes()))
    with pytest.raises(InputError, match="packed more than 3 times"):
        found(archive)


def test_utf16_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("hello there\n".encode("utf-16-le"))
    with pytest.raises(InputError, match=r"this is text in UTF-16.*iconv -f UTF-16LE -t UTF-8"):
        found(path)
    assert len(documents(path, as_bytes=True)[0]) == 24  # no mark says so: any bytes may be like it


def test_text_that_looks_like_a_page_or_a_pointer_is_read_when_it_is_asked_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("<!doctype html>\n<p>hello")
    with pytest.raises(InputError, match=r"a web page .*--format text"):
        found(path)
    assert documents(path, format="text") == ["<!doctype html>\n<p>hello"]
    path.write_text(json.dumps({"text": "<html>"}))
    assert documents(path) == ["<html>"]
