"""What runs on a local disk runs where a file system can do less, and leaves the same behind."""

import errno
import mmap
from pathlib import Path

import pytest
from odd_machine import ODDITIES, put_on, refusing

from trainer.data.corpus import open_corpus, verify_corpus
from trainer.data.prepare import PrepareOptions, prepare
from trainer.errors import InputError


def prepare_from(text: Path, out: Path, words: str) -> None:
    text.write_text(words * 90)
    prepare(PrepareOptions(out=out, train=(text,), overwrite=True))


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_corpus_is_written_and_read_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oddity: str
) -> None:
    text, out = tmp_path / "text", tmp_path / "corpora" / "mine"
    prepare_from(text, out, "a b c d\n")
    wanted = open_corpus(out).hash
    put_on([oddity], monkeypatch.setattr)
    for words in ("e f g h\n", "a b c d\n"):
        prepare_from(text, out, words)
        verify_corpus(out)
    assert open_corpus(out).hash == wanted
    assert [path.name for path in out.parent.iterdir()] == ["mine"]


def test_where_no_file_is_mapped_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_from(tmp_path / "text", tmp_path / "corpus", "a b c d\n")
    monkeypatch.setattr(mmap, "mmap", refusing(errno.ENODEV))
    with pytest.raises(InputError, match=r"\.bin: its file system maps no files into memory"):
        open_corpus(tmp_path / "corpus")
