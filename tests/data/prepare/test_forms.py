"""The same documents in the same order are the same corpus, whatever form they come in."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from prepared import made

from trainer.data.corpus import open_corpus
from trainer.data.prepare.from_ids import prepare_ids
from trainer.data.prepare.from_text import PrepareOptions

TEXTS = [f"the cat {i % 7} sat\non naïve mat {i}\n" * (1 + i % 5) for i in range(200)]


def written_plain(folder: Path) -> Path:
    for i, text in enumerate(TEXTS):
        (folder / f"{i:03}.txt").write_text(text)
    return folder


def packed_lines(pack: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()

    def write(folder: Path) -> Path:
        (folder / "texts").write_bytes(pack(lines))
        return folder / "texts"

    return write


def packed_files(folder: Path) -> Path:
    for i, text in enumerate(TEXTS):
        (folder / f"{i:03}.txt.zst").write_bytes(zstandard.compress(text.encode()))
    return folder


def parquet(folder: Path) -> Path:
    half = len(TEXTS) // 2
    for i, part in enumerate((TEXTS[:half], TEXTS[half:])):
        table = pa.table({"id": range(half), "text": part})
        pq.write_table(table, folder / f"part-{i}.parquet", row_group_size=30)
    return folder


def strings(kind: pa.DataType) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        column = pa.array(TEXTS).cast(kind)
        pq.write_table(pa.table({"text": column}), folder / "texts.parquet")
        return folder / "texts.parquet"

    return write


def arrow_file(folder: Path) -> Path:
    table = pa.table({"text": pa.array(TEXTS).dictionary_encode(), "id": range(len(TEXTS))})
    with pa.ipc.new_file(folder / "texts", table.schema) as file:
        file.write_table(table, max_chunksize=70)
    return folder / "texts"


def datasets_folder(folder: Path) -> Path:
    """Return what `Dataset.save_to_disk` writes, with a file that it keeps for itself."""
    names, half = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"], len(TEXTS) // 2
    for name, part in zip(names, (TEXTS[:half], TEXTS[half:]), strict=True):
        table = pa.table({"text": pa.array(part, pa.large_string())})
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(folder / name, table.schema, options=options) as file:
            file.write_table(table, max_chunksize=30)
    (folder / "cache-12ab.arrow").write_bytes((folder / names[0]).read_bytes())
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text('{\n  "features": {}\n}')
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {
    "JSON lines": packed_lines(bytes),
    "gzip": packed_lines(gzip.compress),
    "bzip2": packed_lines(bz2.compress),
    "xz": packed_lines(lzma.compress),
    "zstd": packed_lines(zstandard.compress),
    "zstd of text": packed_files,
    "Parquet": parquet,
    "Parquet of large strings": strings(pa.large_string()),
    "Parquet of a dictionary": strings(pa.dictionary(pa.int32(), pa.string())),
    "Arrow": arrow_file,
    "datasets": datasets_folder,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the hash of the corpus of plain text, by tokenizer."""
    folder = tmp_path_factory.mktemp("plain")
    path = written_plain(folder)
    kinds = ("words", "bytes", "bpe")
    return {
        kind: made(tmp_path_factory.mktemp(kind), train=(path,), tokenizer=kind).hash
        for kind in kinds
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_hash_of_plain_text(
    tmp_path: Path, plain: dict[str, str], form: str
) -> None:
    (tmp_path / "texts").mkdir()
    path = FORMS[form](tmp_path / "texts")
    for kind, expected in plain.items():
        corpus = made(tmp_path, train=(path,), tokenizer=kind, overwrite=True)
        assert corpus.hash == expected, kind


def test_text_in_any_form_is_one_corpus_by_one_process_or_two(
    tmp_path: Path, plain: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain text, zst, Parquet, a datasets folder, and the ids of the first one, ready made."""
    monkeypatch.setattr("trainer.data.prepare.workers.PART_CHARACTERS", 3000)
    forms = {
        "plain": written_plain,
        **{name: FORMS[name] for name in ("zstd", "Parquet", "datasets")},
    }
    found = {}
    for form, write in forms.items():
        (tmp_path / form).mkdir()
        path = write(tmp_path / form)
        for workers in (1, 2) if form != "plain" else (1,):
            corpus = made(tmp_path, train=(path,), workers=workers, overwrite=True)
            found[form, workers] = corpus.hash
    split = corpus.splits["train"]
    np.save(tmp_path / "ids.npy", split.tokens)
    np.save(tmp_path / "starts.npy", split.document_starts)
    options = PrepareOptions(
        out=tmp_path / "of ids",
        ids=tmp_path / "ids.npy",
        vocab=tmp_path / "corpus" / "vocabulary.json",
        document_starts=tmp_path / "starts.npy",
    )
    prepare_ids(options)
    found["ids", 1] = open_corpus(options.out).hash
    assert set(found.values()) == {plain["words"]}, found
