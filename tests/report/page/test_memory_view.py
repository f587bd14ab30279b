"""The page shows what memory bought, or names the command that would tell it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from compared_runs import add_result, make_compared
from reported_runs import LENGTHS, read

from trainer.data.vocabulary.files import WordVocabulary, save_vocabulary
from trainer.report.page.document import page
from trainer.report.page.memory_view import eval_command, memory_view

WORDS = WordVocabulary(
    ["<eos>", "<unk>", "</p><script>alert(1)</script>", *(f"w{i}" for i in range(3, 50))]
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = make_compared(tmp_path / "run", result={"split": "valid"})
    save_vocabulary(WORDS, run / "vocabulary.json")
    return run


def add_lengths(run: Path, *, gain: float) -> None:
    nats = np.random.default_rng(2).gamma(2.0, 2.0, 3000)
    for mem_len, part in ((0, nats + 1), (64, nats + 1 - gain)):
        add_result(
            run,
            nats=part,
            settings=LENGTHS | {"mem_len": mem_len},
            vocabulary_hash=WORDS.hash,
        )


def test_gain_pictures_table_and_passage_are_on_the_page(run: Path) -> None:
    add_lengths(run, gain=0.25)
    seen = memory_view(read([run])[0], anchor="r0", draws=True, notes=[])
    assert seen.sentence.startswith("Memory of 64 tokens buys 0.2500 nats per token (95 % interval")
    assert [picture.title for picture in seen.pictures] == [
        "Loss against the length of memory",
        "Loss against tokens since memory was empty",
        "What memory buys by the frequency of words",
    ]
    assert seen.command is None
    shares = [float(row[-1].rstrip("%")) for row in seen.table[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert {word.shade for word in seen.words} == {"helped5"}
    text = page(read([run]))
    assert "<script" not in text
    assert "&lt;/p&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert 'class="helped5"' in text


def test_memory_that_misleads_is_said_to_and_chance_is_called_chance(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    add_lengths(run, gain=-0.5)
    seen = memory_view(read([run])[0], anchor="r0", draws=False, notes=[])
    assert "Memory of 64 tokens costs 0.5000 nats per token" in seen.sentence
    assert {word.shade for word in seen.words} == {"hurt5"}
    add_lengths(run, gain=0.0)
    seen = memory_view(read([run])[0], anchor="r0", draws=False, notes=[])
    assert "(which may be chance)" in seen.sentence
    assert {word.shade for word in seen.words} == {""}


def test_without_tokens_the_command_is_named(run: Path) -> None:
    (found,) = read([run])
    seen = memory_view(found, anchor="r0", draws=False, notes=[])
    assert seen.sentence == "The run was not evaluated with several lengths of memory."
    assert seen.command == f"txl eval {run} --mem-len 0,160,640 --per-token"
    (run / "config.json").unlink()
    assert eval_command(found) == f"txl eval {run} --mem-len 0,64,128 --per-token"


def test_without_the_vocabulary_only_the_passage_is_missing(run: Path) -> None:
    add_lengths(run, gain=0.25)
    (run / "vocabulary.json").unlink()
    notes: list[str] = []
    seen = memory_view(read([run])[0], anchor="r0", draws=False, notes=notes)
    assert seen.words == []
    assert seen.table
    assert len(notes) == 1
    assert notes[0].startswith("no passage: ")
