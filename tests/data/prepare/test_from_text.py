"""From text to a corpus: counts that the field knows, constant memory, whole or not at all."""

import io
import itertools
import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prepared import decoded, made

from trainer.data.corpus import open_corpus
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.errors import InputError

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
LINES = [f"the cat {i % 7} sat on mat {i}\n" for i in range(1000)]
TEXT = "".join(LINES)


def need(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs {path.relative_to(DATA.parent)} in ../shared")
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.data
def test_wikitext2_has_the_tokens_that_everyone_counts(tmp_path: Path) -> None:
    folder = need(DATA / "wikitext2")
    valid, test = folder / "valid.txt", folder / "test.txt"
    corpus = made(tmp_path, train=(valid,), valid=(valid,), test=(test,))
    assert corpus.splits["valid"].n_tokens == 217_646
    assert corpus.splits["test"].n_tokens == 245_569
    words = set(valid.read_text().split())
    assert corpus.vocabulary.size == len(words | {"<eos>"})
    assert corpus.vocabulary.eos_id == 0


@pytest.mark.data
def test_every_tokenizer_counts_the_same_words(tmp_path: Path) -> None:
    test = need(DATA / "wikitext2" / "test.txt")
    for tokenizer in ("words", "bytes", "characters", "bpe"):
        corpus = made(tmp_path, train=(test,), tokenizer=tokenizer, overwrite=True)
        split = corpus.splits["train"]
        assert split.n_words == 245_569, tokenizer
        n_characters = test.stat().st_size if tokenizer == "bytes" else len(test.read_text())
        assert split.n_characters == n_characters
        if tokenizer != "words":
            assert decoded(corpus, "train").removesuffix("<|endoftext|>") == test.read_text()


@pytest.mark.data
def test_shakespeare_divides_at_the_very_character_as_enwik8_and_text8_do(tmp_path: Path) -> None:
    path = need(DATA / "tinyshakespeare" / "input.txt")
    corpus = made(tmp_path, train=(path,), split="90,5,5", tokenizer="characters")
    text = path.read_text()
    assert corpus.vocabulary.size == 65
    assert decoded(corpus, "train") == text[: len(text) * 9 // 10]
    assert "".join(decoded(corpus, name) for name in corpus.splits) == text


@pytest.mark.data
def test_books_are_documents(tmp_path: Path) -> None:
    path = need(DATA / "classics" / "valid.jsonl.xz")
    with lzma.open(path) as lines:
        texts = [json.loads(line)["text"] for line in lines]
    corpus = made(tmp_path, train=(path,), tokenizer="characters")
    starts = corpus.splits["train"].document_starts
    assert starts.tolist() == np.cumsum([0, *map(len, texts)])[:-1].tolist()


def test_documents_end_where_they_should_for_every_tokenizer(tmp_path: Path) -> None:
    texts = ["a b\nc", "", "d\n", "e"]
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    expected = {
        "words": "a b\nc\nd\ne\n",
        "bytes": "a b\ncd\ne",
        "characters": "a b\ncd\ne",
        "bpe": "a b\nc<|endoftext|>d\n<|endoftext|>e<|endoftext|>",
    }
    for tokenizer, whole in expected.items():
        corpus = made(tmp_path, train=(path,), tokenizer=tokenizer, overwrite=True)
        split = corpus.splits["train"]
        assert decoded(corpus, "train") == whole
        assert split.header.n_documents == 3
        bounds = [*split.document_starts.tolist(), split.n_tokens]
        parts = [
            corpus.vocabulary.decode(split.tokens[a:b].tolist())
            for a, b in itertools.pairwise(bounds)
        ]
        assert "".join(parts) == whole
        assert [part[0] for part in parts] == ["a", "d", "e"]
        assert split.n_words == 9


def test_the_vocabulary_is_of_train_alone(tmp_path: Path, text: Path) -> None:
    (tmp_path / "valid.txt").write_text("the dog sat\n")
    report = prepare(
        PrepareOptions(out=tmp_path / "c", train=(text,), valid=(tmp_path / "valid.txt",))
    )
    corpus = open_corpus(tmp_path / "c")
    assert decoded(corpus, "valid") == "the <unk> sat\n"
    train, valid = report.splits
    assert (train.unknown_frac, valid.unknown_frac) == (0, 1 / 4)
    assert "unknown 25.00%" in report.lines()[1]
    assert report.lines()[-1].startswith("next: ")
    assert f"launch/train.py quickstart --data {tmp_path}/c" in report.lines()[-1]


def test_splitting_learns_the_vocabulary_from_trains_share_alone(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": f"word{i:04}"}) + "\n" for i in range(9000)))
    corpus = made(tmp_path, train=(path,), split="8,1,1")
    assert {name: split.n_tokens for name, split in corpus.splits.items()} == {
        "train": 14_400,
        "valid": 1800,
        "test": 1800,
    }
    assert corpus.vocabulary.size == 7200 + 2
    assert set(decoded(corpus, "valid").split()) == {"<unk>"}


def test_one_document_is_split_in_order_at_line_ends_and_the_report_says_so(
    tmp_path: Path, text: Path
) -> None:
    report = prepare(PrepareOptions(out=tmp_path / "corpus", train=(text,), split="98,1,1"))
    corpus = open_corpus(tmp_path / "corpus")
    pieces = [decoded(corpus, name) for name in corpus.splits]
    assert pieces[0] == "".join(LINES[: pieces[0].count("\n")])
    assert len(pieces[0]) == pytest.approx(0.98 * len(TEXT), abs=len(LINES[-1]))
    assert any("1 document cannot fill 3 splits" in line for line in report.lines())


def test_stdin_reads_as_the_file_does(tmp_path: Path, text: Path) -> None:
    from_file = made(tmp_path, train=(text,), split="9,1").hash
    options = PrepareOptions(out=tmp_path / "piped", train=(Path("-"),), split="9,1")
    prepare(options, stdin=io.BytesIO(TEXT.encode()))
    assert open_corpus(tmp_path / "piped").hash == from_file
    names = {p.name for p in (tmp_path / "piped").iterdir()}
    assert names == {p.name for p in (tmp_path / "corpus").iterdir()}


@pytest.mark.parametrize("tokenizer", ["words", "bytes", "characters", "bpe"])
def test_preparing_twice_gives_the_same_corpus(tmp_path: Path, text: Path, tokenizer: str) -> None:
    first = made(tmp_path, train=(text,), split="9,1", tokenizer=tokenizer).hash
    again = made(tmp_path, train=(text,), split="9,1", tokenizer=tokenizer, overwrite=True).hash
    assert again == first


@pytest.mark.parametrize("tokenizer", ["words", "bytes", "characters", "bpe"])
def test_a_vocabulary_can_be_that_of_another_corpus(
    tmp_path: Path, text: Path, tokenizer: str
) -> None:
    corpus = made(tmp_path, train=(text,), tokenizer=tokenizer)
    for i, vocab in enumerate((corpus.path, corpus.path / "vocabulary.json")):
        out = tmp_path / f"other{i}"
        prepare(PrepareOptions(out=out, test=(text,), vocab=vocab))
        other = open_corpus(out)
        assert other.vocabulary.hash == corpus.vocabulary.hash
        assert list(other.splits) == ["test"]
        assert np.array_equal(other.splits["test"].tokens, corpus.splits["train"].tokens)


def test_what_is_left_out_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.txt", "b.png", "c.bin"):
        (folder / name).write_text("text")
    (folder / "d.jsonl").write_text('{"text": "b"}\n{"text": null}\n')
    options = PrepareOptions(out=tmp_path / "corpus", train=(folder,), on_bad_line="skip")
    lines = prepare(options).lines()
    assert "left out: 2 files (b.png, c.bin): no text by their suffix" in lines
    cause = "the field 'text' is null, not text"
    assert f"left out: 1 line ({folder}/d.jsonl:2: {cause})" in lines
    told = open_corpus(tmp_path / "corpus").splits["train"].header.made["told"]
    assert set(told) <= set(lines)
    assert len(told) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": ()}, "no text: give --train, --valid or --test"),
        ({"train": (), "vocab": Path("words")}, "no text: give --train, --valid or --test"),
        ({"train": (), "test": (Path("text.txt"),)}, "give --train, or --vocab"),
        ({"out": Path("text.txt/corpus")}, "text.txt/corpus: cannot be written: "),
        ({"split": "9,1", "valid": (Path("text.txt"),)}, "without --valid or --test"),
        ({"split": "9;1"}, "--split 9;1: not shares"),
        ({"split_by": "document"}, "--split-by document: .* needs --split"),
        ({"suffixes": ("py",)}, "--suffixes py: a suffix begins with a dot"),
        ({"train": (Path("short"),), "split": "98,1,1"}, "came .*: the text is too short"),
        ({"tokenizer": "bytes", "min_count": 2}, "--min-count: for words, but .* is bytes"),
        ({"unk": True}, "--unk: for characters, but the tokenizer is words"),
        ({"tokenizer": "bytes", "unk": True}, "--unk: for characters, but the tokenizer is bytes"),
        (
            {"tokenizer": "characters", "unk": True, "byte_fallback": True},
            "--unk, --byte-fallback: each says what",
        ),
        ({"max_size": 1}, "--max-size 1: must be at least 2"),
        ({"tokenizer": "bpe", "vocab_size": 256}, "--vocab-size 256: must be at least 257"),
        ({"train": (Path("none"),)}, "none: no such file or folder"),
        ({"train": (Path("-"),)}, "stdin can be read once, and is not open"),
        ({"train": (Path("empty"),)}, "split train has no text"),
        ({"valid": (Path("empty"),)}, "split valid has no text"),
        ({"vocab": Path("none")}, "none: no such vocabulary"),
        ({"vocab": Path("words"), "min_count": 2}, "--min-count: .* but --vocab gives one"),
        ({"vocab": Path("words"), "tokenizer": "bpe"}, "--tokenizer bpe: .* is of kind words"),
    ],
)
def test_bad_options_and_inputs_leave_nothing_behind(
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    Path("short").write_text("one two\n")
    prepare(PrepareOptions(out=Path("words"), train=(text,)))
    before = sorted(tmp_path.iterdir())
    given = {"out": Path("corpus"), "train": (text,)} | options
    with pytest.raises(InputError, match=message):
        prepare(PrepareOptions(**given))  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before


def test_progress_off_a_terminal_is_plain_lines(
    tmp_path: Path, text: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare(PrepareOptions(out=tmp_path / "corpus", train=(text,)))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{label}: {tenth}0% of 0.0 MiB" for label in ("vocabulary", "encoding") for tenth in (10,)
    ]


def test_neither_torch_nor_deepspeed_is_imported() -> None:
    code = "import sys, trainer.data.prepare.from_text\n"
    code += "print({'torch', 'deepspeed'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "set()"
