"""PG-19 comes whole from its bucket, here a stand-in that lists and serves as the real one does."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from file_server import Served, serving
from made_text import made_text

from trainer.data.corpus import open_corpus
from trainer.data.prepare.by_name.bucket import listing
from trainer.data.prepare.by_name.pg19 import BUCKET, FOLDERS, prepare_pg19
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.errors import InputError

BOOKS = {"train": 7, "valid": 2, "test": 3}
TEXTS = {
    f"{folder}/{number}.txt": made_text(f"{folder} {number}", n_lines=30).encode()
    for split, folder in FOLDERS.items()
    for number in range(BOOKS[split])
}


def bucket(texts: dict[str, bytes], **changed: Any) -> Callable[[str], bytes | None]:
    """Return how a bucket of three objects a page answers; `changed` are fields of all items."""

    def answer(path: str) -> bytes | None:
        parts = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path != f"/storage/v1/b/{BUCKET}/o":
            return None
        at = int(query.get("pageToken", 0))
        names = [query["prefix"], *sorted(n for n in texts if n.startswith(query["prefix"]))]
        items = [_item(name, texts.get(name, b"")) | changed for name in names[at : at + 3]]
        more = {"nextPageToken": str(at + 3)} if at + 3 < len(names) else {}
        return json.dumps({"items": items, **more}).encode()

    return answer


def _item(name: str, content: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.md5(content).digest()).decode()
    return {"name": name, "size": str(len(content)), "md5Hash": digest}


def files(texts: dict[str, bytes]) -> dict[str, bytes]:
    return {f"/{BUCKET}/{name}": content for name, content in texts.items()}


def options(out: Path, **changed: Any) -> PrepareOptions:
    return PrepareOptions(out=out, **({"tokenizer": "bytes"} | changed))


def media(served: Served) -> list[tuple[str, str | None]]:
    return [(path, wanted) for path, wanted in served.asked if path.startswith(f"/{BUCKET}/")]


def test_the_books_come_whole_and_are_asked_for_once(tmp_path: Path) -> None:
    with serving(files=files(TEXTS), made=bucket(TEXTS)) as served:
        report = prepare_pg19(options(tmp_path / "a"), host=served.url, books=BOOKS)
        n_asked = len(media(served))
        again = options(tmp_path / "b", tokenizer="bpe", vocab_size=300)
        prepare_pg19(again, host=served.url, books=BOOKS)
        assert (n_asked, len(media(served))) == (len(TEXTS), len(TEXTS))
    here = tmp_path / "downloads" / "pg19"
    assert {str(p.relative_to(here)): p.read_bytes() for p in here.rglob("*.*")} == TEXTS
    own = {split: (here / folder,) for split, folder in FOLDERS.items()}
    prepare(options(tmp_path / "own", **own))
    assert open_corpus(tmp_path / "a").hash == open_corpus(tmp_path / "own").hash
    assert [split.n_documents for split in report.splits] == list(BOOKS.values())
    said = "\n".join(report.lines())
    assert "12 books; checksums: as listed by deepmind-gutenberg, sha256 of them all" in said
    assert "6,966,499 (test)" in said


def test_a_copy_that_broke_off_goes_on_where_it_was(tmp_path: Path) -> None:
    big = {**TEXTS, "test/0.txt": made_text("long", n_lines=3000).encode()}
    asked = options(tmp_path / "a")
    lacking = files(TEXTS) | {f"/{BUCKET}/test/0.txt": b""}
    with (
        serving(files=lacking, made=bucket(big)) as served,
        pytest.raises(InputError, match=r"0\.txt: not downloaded"),
    ):
        prepare_pg19(asked, host=served.url, books=BOOKS)
    part = tmp_path / "downloads" / "pg19" / "test" / "0.txt.part"
    part.write_bytes(big["test/0.txt"][:1000])
    with serving(files=files(big), made=bucket(big)) as served:
        prepare_pg19(asked, host=served.url, books=BOOKS)
        assert (f"/{BUCKET}/test/0.txt", "bytes=1000-") in media(served)
        assert not [path for path, _ in media(served) if "/train/" in path]
    assert part.with_name("0.txt").read_bytes() == big["test/0.txt"]


def test_a_book_other_than_listed_is_not_read(tmp_path: Path) -> None:
    wrong = {**TEXTS, "train/3.txt": b"another book\n"}
    with (
        serving(files=files(wrong), made=bucket(TEXTS)) as served,
        pytest.raises(InputError, match=r"3\.txt: not downloaded: .*its checksum is md5"),
    ):
        prepare_pg19(options(tmp_path / "a"), host=served.url, books=BOOKS)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "train/../../x.txt"}, "is no file of train"),
        ({"size": None}, "no listing of deepmind-gutenberg/train"),
        ({"md5Hash": "?"}, "no listing of deepmind-gutenberg/train"),
    ],
)
def test_a_listing_that_is_none_is_refused(changed: dict[str, Any], message: str) -> None:
    with serving(made=bucket(TEXTS, **changed)) as served, pytest.raises(InputError, match=message):
        listing(BUCKET, "train", host=served.url)


def test_fewer_books_than_published_are_refused(tmp_path: Path) -> None:
    with serving(files=files(TEXTS), made=bucket(TEXTS)) as served:
        with pytest.raises(InputError, match="train lists 7 books, published are 28,602"):
            prepare_pg19(options(tmp_path / "a"), host=served.url)
        assert media(served) == []
    with pytest.raises(InputError, match="cannot be listed"):
        prepare_pg19(options(tmp_path / "a"), host=served.url)


def test_a_folder_that_has_the_books_is_read_as_it_is(tmp_path: Path) -> None:
    for name, content in TEXTS.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    report = prepare_pg19(options(tmp_path / "a"), source=tmp_path / "copy", books=BOOKS)
    assert "checksums: not compared with any" in "\n".join(report.lines())
    (tmp_path / "copy" / "test" / "1.txt").unlink()
    with pytest.raises(InputError, match=r"test: 2 books \(\.txt\), but pg19 has 3 there"):
        prepare_pg19(options(tmp_path / "b"), source=tmp_path / "copy", books=BOOKS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokenizer": None}, "open vocabulary.*give --tokenizer bpe or bytes"),
        ({"tokenizer": "words"}, "open vocabulary"),
        ({"split": "98,1,1"}, "--split: for text of your own"),
        ({"tokenizer": "bpe", "vocab_size": 3}, "--vocab-size 3: must be at least"),
        ({"workers": 2}, "--workers: for words"),
    ],
)
def test_what_does_not_apply_is_refused_before_anything_is_asked_for(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with serving(made=bucket(TEXTS)) as served:
        with pytest.raises(InputError, match=message):
            prepare_pg19(options(tmp_path / "a", **changed), host=served.url, books=BOOKS)
        assert served.asked == []
