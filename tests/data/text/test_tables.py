"""Tables give the texts of one column; what is no text is refused, or left out and counted."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import documents
from txl_command import said_in

from trainer.data.text.json_lines import BadLines
from trainer.errors import InputError

WRITERS = ("parquet", "arrow", "stream")
forms = pytest.mark.parametrize("form", WRITERS)


def write(path: Path, form: str, **columns: object) -> Path:
    table = pa.table(columns)
    if form == "parquet":
        pq.write_table(table, path, row_group_size=2)
        return path
    make = pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream
    with make(path, table.schema) as file:
        file.write_table(table, max_chunksize=2)
    return path


@forms
def test_each_row_is_a_document_of_the_column_that_is_named(tmp_path: Path, form: str) -> None:
    texts = ["one\n", "", "two 漢", "x" * 100_000, "five"]
    path = write(tmp_path / "t", form, text=["no"] * 5, body=texts)
    assert documents(path, text_field="body") == texts
    latin = [text.encode().decode("latin-1") for text in texts]
    assert documents(path, text_field="body", as_bytes=True) == latin


@forms
@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"body": ["a"], "id": [1]}, r"no column 'text' \(columns: body, id\); see --text-field"),
        ({"text": [1]}, "the column 'text' holds int64, not text"),
        ({"text": [b"a"]}, "the column 'text' holds binary, not text"),
        ({"text": [["a"]]}, "the column 'text' holds list<.*>, not text"),
        ({"text": ["a", None]}, "row 2: the column 'text' is null; mend the row"),
        ({"text": ["a", "b", "c\0"]}, "row 3: the column 'text' has a NUL at character 1"),
    ],
)
def test_tables_without_the_text_are_refused_by_name(
    tmp_path: Path, form: str, columns: dict[str, object], says: str
) -> None:
    path = write(tmp_path / "t", form, **columns)
    with pytest.raises(InputError, match=f"t: {says}"):
        documents(path)


@forms
def test_rows_without_a_text_can_be_left_out_and_are_counted(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "t", form, text=["a", None, "b", "\0"])
    skip = BadLines("skip")
    assert documents(path, bad_lines=skip) == ["a", "b"]
    assert skip.n_left_out == 2
    path = write(tmp_path / "t", form, text=pa.array([None], pa.string()))
    with pytest.raises(InputError, match="none of its rows has a text; the last one: the column"):
        documents(path, bad_lines=skip)


@forms
def test_damaged_tables_are_refused_by_name(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "t", form, text=["one", "two", "three"] * 5)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-4], whole[:20]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"t: (a damaged table|cannot be read)"):
            documents(path)


def test_bytes_that_are_no_utf8_are_named_by_their_row(tmp_path: Path) -> None:
    column = pa.array([b"a", b"b\xff"]).view(pa.string())
    path = write(tmp_path / "t", "parquet", text=column)
    with pytest.raises(InputError, match="t: row 2: the column 'text' is not UTF-8 at byte 1"):
        documents(path)


def saved(folder: Path, texts: list[str]) -> None:
    folder.mkdir(parents=True)
    write(folder / "data-00000-of-00001.arrow", "stream", text=texts)
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))


def test_a_data_set_of_several_splits_is_read_split_by_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        saved(tmp_path / "set" / split, [split])
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(
        InputError, match=r"the splits test, train: name each .* --train .*set/test"
    ):
        documents(tmp_path / "set")
    assert documents(tmp_path / "set" / "train") == ["train"]


def test_a_data_set_that_lacks_a_table_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "set", ["a"])
    (tmp_path / "set" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(InputError, match="lacks its table data-00000"):
        documents(tmp_path / "set")


def test_another_programs_state_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{\n"step": 1}')
    (tmp_path / "a.txt").write_text("a")
    assert documents(tmp_path) == ["a"]


def test_without_the_library_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t", "parquet", text=["a"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ended = said_in("utf-8", monkeypatch, "prepare", "--train", path, "--out", tmp_path / "c")
    assert ended.code == 2
    assert "install the extra hf (pip install pyarrow)" in ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "c").exists()


PEAK_MEMORY = """
import sys
from pathlib import Path
from trainer.data.prepare.from_text import PrepareOptions, prepare
prepare(PrepareOptions(out=Path(sys.argv[1]), train=(Path(sys.argv[2]),), tokenizer="bytes"))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.parametrize("form", ["parquet", "stream"])
def test_memory_does_not_grow_with_the_table(tmp_path: Path, form: str) -> None:
    texts = [f"{i} the cat sat on the mat\n" * 100 for i in range(4000)]
    n_bytes = sum(map(len, texts))
    peaks = []
    for n_times in (1, 4):
        path, table = tmp_path / f"{n_times}", pa.table({"text": texts * n_times})
        if form == "parquet":
            pq.write_table(table, path, compression="none", use_dictionary=False)
        else:
            with pa.ipc.new_stream(path, table.schema) as file:
                file.write_table(table, max_chunksize=1000)
        command = [sys.executable, "-c", PEAK_MEMORY, tmp_path / f"c{n_times}", path]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(1024 * int(ran.stdout))
    assert peaks[1] - peaks[0] <= 0.25 * 3 * n_bytes
