"""Preparing PG-19: whole books of before 1919, with a tokenizer of the user's choice.

Unlike the corpora of `known_corpora`, PG-19 has an open vocabulary and no published ids: results
are compared by the nats of the whole text per published word. Nor are checksums published.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trainer.data.prepare.by_name.bucket import HOST, Listed, copy, hash_lines, listing
from trainer.data.prepare.by_name.download import CACHE_FOLDER
from trainer.data.prepare.by_name.known_corpora import PG19
from trainer.data.prepare.from_text import PrepareOptions, checked_kind, prepare
from trainer.data.prepare.report import PrepareReport
from trainer.data.vocabulary.files import load_vocabulary
from trainer.errors import InputError

BUCKET = "deepmind-gutenberg"
#: The folder of each split, and the books that are published in it.
FOLDERS = {"train": "train", "valid": "validation", "test": "test"}
BOOKS = {"train": 28_602, "valid": 50, "test": 100}
#: By which published perplexities divide the nats of a split.
_WORDS = {"valid": 3_007_061, "test": 6_966_499}
_REFUSED = ("--train", "--valid", "--test", "--split", "--split-by", "--format", "--suffixes")
_REFUSED_TOO = ("--ids", "--ids-dtype", "--end-id", "--document-starts", "--text-field")


def prepare_pg19(
    options: PrepareOptions,
    *,
    source: Path | None = None,
    cache: Path | None = None,
    host: str = HOST,
    books: Mapping[str, int] = BOOKS,
) -> PrepareReport:
    """Write PG-19 at `options.out`, whole or not at all; a document is a book.

    Args:
        options: all but those that say what the text is.
        source: a folder with `train`, `validation` and `test`; None downloads them.
        cache: the folder of downloads; None is `downloads` beside `out`.
        host: the address of Google Cloud Storage.
        books: the number of books of each split.

    Raises:
        InputError: an option does not apply, books are missing, or the output cannot be written.
    """
    if refused := [f for f in options.flags() if f in (*_REFUSED, *_REFUSED_TOO)]:
        raise InputError(
            f"{', '.join(refused)}: for text of your own; pg19 has its own three splits"
        )
    if options.vocab is None and options.tokenizer in (None, "words"):
        raise InputError(
            "pg19 has an open vocabulary, so its results are of tokenizers without unknown words: "
            "give --tokenizer bpe or bytes, or --vocab"
        )
    if source and cache:
        raise InputError("--from reads a folder, --cache keeps downloads: give one of them")
    if options.out.exists() and not options.overwrite:
        raise InputError(
            f"{options.out}: exists; choose another --out, or replace it with --overwrite"
        )
    folder = source or (cache or options.out.resolve().parent / CACHE_FOLDER) / PG19
    options = replace(
        options,
        train=(folder / FOLDERS["train"],),
        valid=(folder / FOLDERS["valid"],),
        test=(folder / FOLDERS["test"],),
        suffixes=(".txt",),
    )
    checked_kind(options, load_vocabulary(options.vocab) if options.vocab else None)
    checked = "not compared with any" if source else _downloaded(folder, host=host, books=books)
    _check_books(folder, books)
    report = prepare(options)
    remarks = (f"pg19: {sum(books.values()):,} books; checksums: {checked}", _of_words())
    return replace(report, remarks=remarks + report.remarks)


def _downloaded(folder: Path, *, host: str, books: Mapping[str, int]) -> str:
    """Bring what `folder` lacks; return the hash of all names and checksums."""
    listed = {name: _listed(name, host=host) for name in FOLDERS.values()}
    for split, name in FOLDERS.items():
        if len(listed[name]) != books[split]:
            raise InputError(
                f"{host}: {BUCKET}/{name} lists {len(listed[name]):,} books, published are "
                f"{books[split]:,}; nothing was downloaded"
            )
    total = hashlib.sha256()
    for name, files in listed.items():
        try:
            copy(BUCKET, files, into=folder, label=f"downloading {PG19}/{name}", host=host)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error}") from None
        for line in hash_lines(files):
            total.update(line)
    return f"as listed by {BUCKET}, sha256 of them all {total.hexdigest()}"


def _listed(name: str, *, host: str) -> list[Listed]:
    return [file for file in listing(BUCKET, name, host=host) if file.name.endswith(".txt")]


def _check_books(folder: Path, books: Mapping[str, int]) -> None:
    for split, name in FOLDERS.items():
        n_found = sum(1 for _ in (folder / name).glob("*.txt"))
        if n_found != books[split]:
            raise InputError(
                f"{folder / name}: {n_found:,} books (.txt), but pg19 has {books[split]:,} there; "
                f"get it again, or prepare it as your own text with --train"
            )


def _of_words() -> str:
    per = " and ".join(f"{n:,} ({split})" for split, n in _WORDS.items())
    return (
        f"pg19: published perplexities per word are exp(loss * tokens / words) with {per} words; "
        "ppl_word counts line ends too, and is lower"
    )
