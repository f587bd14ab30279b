"""`txl score`: any text has the figures that an evaluation of a corpus of it has."""

import gzip
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import CPU, lone_world
from txl_command import Ended, exit_code

from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.errors import Exit, InputError
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run
from trainer.inference.texts.files import FileScores, score_files
from trainer.inference.texts.options import ScoreOptions
from trainer.track.run_files.results import EvalResult

FIGURES = ("loss", "ppl", "ppl_word", "bpc")


def score(run: Path, *files: Path, stdin: bytes | None = None, **options: Any) -> FileScores:
    asked = ScoreOptions(run_dir=run, files=files, **options)
    return score_files(asked, device=CPU, stdin=None if stdin is None else io.BytesIO(stdin))


def evaluated(run: Path, folder: Path, *files: Path, **options: Any) -> EvalResult:
    """Return the evaluation of a corpus of the files, filed in a copy of the run."""
    prepare(PrepareOptions(out=folder, test=files, vocab=run))
    copy = shutil.copytree(run, folder.with_name("copy"))
    (result,) = evaluate_run(EvalOptions(run_dir=copy, data=folder, **options), lone_world())
    return result


@pytest.fixture(scope="session")
def stories(corpus: Path) -> list[Path]:
    """Return the texts of the tests' corpus: one has unknown words."""
    folder = corpus.with_name(f"{corpus.name} texts")
    return [folder / "valid.txt", folder / "the mill.txt"]


@pytest.mark.parametrize(
    "lengths",
    [{}, {"tgt_len": 5, "mem_len": 8, "clamp_len": 6}, {"mem_len": 24, "same_length": True}],
)
def test_a_file_has_the_figures_of_its_evaluation_to_every_printed_digit(
    trained: Path, stories: list[Path], tmp_path: Path, lengths: dict[str, Any]
) -> None:
    asked = lengths | ({"mem_len": str(lengths["mem_len"])} if lengths else {})
    expected = evaluated(trained, tmp_path / "corpus", stories[0], batch_size=3, **asked)
    for batch_size in (1, 5):
        scores = score(trained, *stories, batch_size=batch_size, **lengths)
        cells = [re.split(r"\s{2,}", line) for line in scores.text().splitlines()[2:4]]
        row = dict(zip(*cells, strict=True))
        values = scores.to_json()["files"][0]
        assert values["n_tokens"] == expected.n_tokens
        assert row["tokens"] == f"{expected.n_tokens:,}"
        for name, spec in zip(FIGURES, (".4f", ".2f", ".2f", ".4f"), strict=True):
            figure = getattr(expected, name)
            assert values[name] == (figure and pytest.approx(figure, rel=1e-6))
            assert row[name] == ("- [1]" if figure is None else format(figure, spec))
        assert values["absent"] == expected.absent
        assert values["n_unknown"] > 0


def test_memory_may_go_from_file_to_file_as_through_a_corpus(
    trained: Path, stories: list[Path], tmp_path: Path
) -> None:
    expected = evaluated(trained, tmp_path / "corpus", *stories)
    scores = score(trained, *stories, memory_across_files=True)
    files, total = scores.to_json()["files"], scores.to_json()["total"]
    assert total["loss"] == pytest.approx(expected.loss, rel=1e-6)
    assert total["ppl_word"] == pytest.approx(expected.ppl_word, rel=1e-6)
    assert sum(file["n_tokens"] for file in files) == total["n_tokens"] == expected.n_tokens
    apart = score(trained, *stories).to_json()["files"]
    assert files[0]["nats"] == pytest.approx(apart[0]["nats"], rel=1e-6)
    assert files[1]["n_tokens"] == apart[1]["n_tokens"] + 1
    assert files[1]["loss"] != pytest.approx(apart[1]["loss"], rel=1e-6)


def test_ids_that_lie_in_a_file_are_scored_alike(
    trained: Path, stories: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = score(trained, *stories).to_json()
    monkeypatch.setattr("trainer.inference.texts.encoded.MOST_BYTES", 100)
    assert score(trained, *stories).to_json() == in_memory


def test_packed_files_lines_and_folders_are_read_as_prepare_reads_them(
    trained: Path, stories: list[Path], tmp_path: Path
) -> None:
    text = stories[0].read_text()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "packed.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "b" / "lines.jsonl").write_text(json.dumps({"body": text}) + "\n")
    scores = score(trained, stories[0], tmp_path / "b", text_field="body")
    assert [Path(name).name for name, _ in scores.files] == [
        "valid.txt",
        "lines.jsonl",
        "packed.txt.gz",
    ]
    first, *others = (tally.loss_sum for _, tally in scores.files)
    assert others == pytest.approx([first, first], rel=1e-6)


#: What is scored, and what is said of it.
REFUSED: dict[str, tuple[bytes | None, str]] = {
    "missing.txt": (None, "missing.txt: no such file or folder"),
    "picture.txt": (b"\x89PNG\r\n\x1a\n" + bytes(40), "picture.txt: this is .*PNG.*, not text"),
    "latin.txt": (b"caf\xe9 the mill\n", r"latin.txt: not UTF-8 at byte 3 \(.*Latin-1\)$"),
    "nul.txt": (b"the mill\n" * 9000 + b"\0", "nul.txt: a NUL at byte 81000"),
    "evil\x1b[2J.txt": (None, r"evil\\x1b\[2J.txt: no such file"),
    "empty.txt": (b"", "nothing to predict: 1 file, none of more than one token"),
    "line.txt": (b"\n", "nothing to predict: 1 file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_scored_is_refused_in_a_line(
    trained: Path, tmp_path: Path, name: str
) -> None:
    content, said = REFUSED[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        score(trained, tmp_path / name)
    assert len(refused.value.lines) == 1


def test_an_empty_file_among_others_is_told_and_left_out(
    trained: Path, stories: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "line.txt").write_text("\n")
    names = [tmp_path / "empty.txt", tmp_path / "line.txt", stories[0]]
    for across in (False, True):
        scores = score(trained, *names, memory_across_files=across)
        assert scores.files[0][1].n_scored == 0
        assert scores.to_json()["files"][0]["absent"]["loss"] == "no token"
        assert "] no token" in scores.text()
    alone = score(trained, stories[0])
    assert score(trained, *names).total.loss_sum == pytest.approx(alone.total.loss_sum, rel=1e-6)


Txl = Callable[..., Ended]


@pytest.fixture
def txl(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Txl:
    def run(*argv: object, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capfd.readouterr()
        code = exit_code(monkeypatch, "score", *argv, "--device", "cpu")
        return Ended(code, *capfd.readouterr())

    return run


def test_the_command_prints_a_table_or_json_and_reads_stdin(
    txl: Txl, trained: Path, stories: list[Path]
) -> None:
    table = txl(trained, *stories)
    assert (table.code, table.err) == (0, "")
    assert len(table.out.splitlines()) == 2 + 4 + 2  # files, total, notes on bpc
    told = txl(trained, "-", "--json", "--tgt-len", "6", stdin=stories[0].read_text())
    values = json.loads(told.out)
    assert [file["file"] for file in values["files"]] == ["stdin"]
    assert values["settings"]["tgt_len"] == 6
    assert values["total"]["nats"] == pytest.approx(
        score(trained, stories[0], tgt_len=6).total.loss_sum, rel=1e-6
    )
    for argv, said in {
        (trained,): "no text: name files",
        (trained, "-", "-"): "stdin can be read once",
        (trained.parent, "-"): "is no run directory",
        (trained, stories[0], "--tgt-len", "0"): "evaluation settings: tgt_len",
    }.items():
        refused = txl(*argv)
        assert (refused.code, said in refused.err) == (Exit.BAD_INPUT, True), refused.err
