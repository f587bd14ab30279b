"""`txl eval`: one result, whatever the batch size and the number of ranks; and it is filed."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import lone_world, random_documents, write_corpus, write_split
from evaluated_runs import evaluated, ranks
from saved_checkpoints import alter_state
from training import ROOT

from trainer import read_metrics
from trainer.data.corpus import open_corpus
from trainer.data.vocabulary.symbols import SymbolVocabulary
from trainer.errors import InputError
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run
from trainer.inference.scored_tokens import write_text


def per_token(path: Path) -> list[tuple[int, str, float]]:
    """Return position, token and nats in the lines of a file."""
    header, *lines, end = path.read_text().split("\n")
    assert (header, end) == ("position\ttoken\tnats", "")
    rows = [line.split("\t") for line in lines]
    return [(int(position), json.loads(token), float(nats)) for position, token, nats in rows]


def filed(run: Path) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in (run / "evals").glob("*.json")}


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained run, to file results in."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize("step", [3, 6])
def test_an_evaluation_equals_the_validation_of_that_step(run: Path, step: int) -> None:
    (in_training,) = (
        record for record in read_metrics(run, kind="valid") if record["step"] == step
    )
    result = evaluated(run, checkpoint=str(step))
    for name in ("loss", "ppl", "ppl_word", "bpc"):
        figure = in_training[f"valid/{name}"]
        assert result[name] == (figure and pytest.approx(figure, rel=1e-6)), name
    # The text has words that are unknown, whose characters no id tells.
    assert (result["bpc"], {*result["absent"]}) == (None, {"bpc"})
    assert "not told by the ids" in result["absent"]["bpc"]
    assert result["step"] == step


def test_neither_batch_size_nor_ranks_change_the_result(run: Path) -> None:
    losses = [evaluated(run, batch_size=batch_size)["loss"] for batch_size in (1, 3, 8, 50)]
    told = ranks(2, run, "--batch-size", 3, "--mem-len", "0,20")
    assert told.count("memory of 20 gains") == 1
    results = [result for result in filed(run).values() if result["world_size"] == 2]
    by_length = {result["settings"]["mem_len"]: result["loss"] for result in results}
    assert [*losses, by_length[20]] == pytest.approx([losses[0]] * 5, rel=1e-6)
    assert by_length[0] == pytest.approx(evaluated(run, mem_len="0")["loss"], rel=1e-6)


def test_several_lengths_of_memory_make_several_results(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = EvalOptions(run_dir=run, split="valid", mem_len="10,20", no_memory=True)
    results = evaluate_run(options, lone_world())
    assert [result.settings.mem_len for result in results] == [0, 10, 20]
    assert len({result.loss for result in results}) == 3
    assert len(filed(run)) == 3
    told = capsys.readouterr().out
    for result in results:
        assert f"{result.loss:.6f}" in told
        if mem_len := result.settings.mem_len:
            gain = results[0].loss - result.loss
            assert f"memory of {mem_len} gains {gain:.4f} nats per token" in told


def test_a_filed_result_says_what_was_scored_with_what_and_how(run: Path, corpus: Path) -> None:
    result = evaluated(run, checkpoint="4", tgt_len=7, clamp_len=9)
    (kept,) = filed(run).values()
    assert kept == result
    opened = open_corpus(corpus)
    assert kept["n_tokens"] == opened.splits["valid"].n_tokens - 1
    n_tokens = opened.splits["valid"].n_tokens
    assert kept["counting"] == (
        "every token but the first of the split, each exactly once "
        f"({n_tokens - 1:,} of {n_tokens:,} tokens)"
    )
    assert (kept["rule"], kept["split"], kept["corpus"]) == ("every token", "valid", corpus.name)
    assert kept["corpus_path"] == str(corpus)
    assert kept["corpus_hash"] == opened.hash
    assert kept["split_hash"] == opened.splits["valid"].hash
    assert kept["vocabulary_hash"] == opened.vocabulary.hash
    manifest = json.loads((run / "checkpoints/step-00000004/manifest.json").read_text())
    weights = manifest["files"]["weights-00000.safetensors"]["xxh3_128"]
    assert kept["checkpoint_hash"] == {"weights-00000.safetensors": weights}
    assert (kept["checkpoint"], kept["step"], kept["precision"]) == ("step-00000004", 4, "fp32")
    assert kept["settings"] == {
        "tgt_len": 7,
        "mem_len": 20,
        "clamp_len": 9,
        "same_length": False,
        "batch_size": 2,
        "warm": "exact",
    }


def test_what_changes_a_result_changes_the_name_of_its_file(run: Path) -> None:
    evaluated(run)
    changes: list[dict[str, Any]] = [
        {"checkpoint": "2"},
        {"tgt_len": 5},
        {"mem_len": "5"},
        {"clamp_len": 3},
        {"same_length": True},
        {"warm": "near"},
        {"precision": "bf16"},
        {"split": "train"},
    ]
    for n_files, change in enumerate(changes, start=2):
        evaluated(run, **change)
        assert len(filed(run)) == n_files, change
    evaluated(run, batch_size=5)
    assert len(filed(run)) == 1 + len(changes)


def test_every_token_is_written_once_at_any_batch_size_and_number_of_ranks(
    run: Path, corpus: Path, tmp_path: Path
) -> None:
    vocabulary, split = open_corpus(corpus).vocabulary, open_corpus(corpus).splits["valid"]
    file = tmp_path / "nats.tsv"
    file.write_text("of an earlier result")
    results = {}
    for batch_size in (1, 4):
        loss = evaluated(run, batch_size=batch_size, per_token_text=file)["loss"]
        results[batch_size, 1] = loss, per_token(file)
        ranks(2, run, "--batch-size", batch_size, "--per-token-text", file)
        (kept,) = (result for result in filed(run).values() if result["world_size"] == 2)
        results[batch_size, 2] = kept["loss"], per_token(file)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [file.name]
    _, expected = results[1, 1]
    assert [token for _, token, _ in expected] == [
        vocabulary.decode([token]) for token in split.tokens[1:].tolist()
    ]
    assert "\n" in {token for _, token, _ in expected}
    for loss, rows in results.values():
        assert [row[:2] for row in rows] == [row[:2] for row in expected]
        assert [position for position, _, _ in rows] == list(range(1, split.n_tokens))
        nats = [row[2] for row in rows]
        assert nats == pytest.approx([row[2] for row in expected], abs=1e-5)
        assert sum(nats) / len(nats) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("text", ['tab\tquote"\r \x1c€é\n', "plain"])
def test_a_token_of_any_text_is_read_back(text: str, tmp_path: Path) -> None:
    vocabulary = SymbolVocabulary("characters", text)
    split = write_split(tmp_path / "corpus", [range(len(text))], vocabulary_size=len(text))
    nats = [(1, torch.linspace(0, 20, len(text) - 1).numpy())]
    write_text(tmp_path / "out", nats, split, vocabulary)
    found = per_token(tmp_path / "out")
    assert "".join(token for _, token, _ in found) == text[1:]
    assert [value for _, _, value in found] == pytest.approx(nats[0][1].tolist(), rel=1e-8)


def test_a_result_as_fairseq_counts_stands_beside_ours_and_says_what_it_leaves_out(
    run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = evaluated(run)
    capsys.readouterr()
    theirs = evaluated(run, as_fairseq=True, per_token_text=tmp_path / "nats.tsv")
    assert len(filed(run)) == 2
    n_tokens = open_corpus(corpus).splits["valid"].n_tokens
    n_chunks = -(-n_tokens // 12)
    assert theirs["n_tokens"] == n_tokens - n_chunks
    assert f"{n_tokens - n_chunks:,} of {n_tokens:,} tokens" in theirs["counting"]
    assert theirs["loss_base2"] == pytest.approx(theirs["loss"] / math.log(2))
    assert theirs["ppl"] == pytest.approx(2 ** theirs["loss_base2"])
    positions = [position for position, _, _ in per_token(tmp_path / "nats.tsv")]
    assert positions == [position for position in range(n_tokens) if position % 12]
    told = " ".join(capsys.readouterr().out.split())
    assert f"Loss (base 2): {theirs['loss_base2']:.4f}, Perplexity: {theirs['ppl']:.2f}" in told
    assert theirs["counting"] in told
    assert "fairseq" not in ours["counting"]


def test_fairseqs_memory_is_not_cut_at_documents(run: Path) -> None:
    def losses() -> list[float]:
        both = (False, True)
        return [
            evaluated(run, split="train", checkpoint="6", as_fairseq=fairseq)["loss"]
            for fairseq in both
        ]

    ours, theirs = losses()
    alter_state(run, '"memory_reset": "epoch"', '"memory_reset": "document"')
    ours_cut, theirs_uncut = losses()
    assert ours_cut != pytest.approx(ours, rel=1e-6)
    assert theirs_uncut == theirs


def test_without_memory_same_length_means_nothing(run: Path) -> None:
    result = evaluated(run, mem_len="0", same_length=True)
    assert not result["settings"]["same_length"]
    assert result["loss"] == evaluated(run, mem_len="0")["loss"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"run": "nowhere"}, "nowhere is no run directory"),
        ({"checkpoint": "5"}, "no checkpoint '5'; there are: step-00000006, step-00000004"),
        ({"split": "test"}, "has no split 'test': it has train, valid"),
        ({"data": "nowhere"}, "nowhere: no such corpus"),
        ({"tgt_len": 0}, "tgt_len: input should be greater than or equal to 1, got 0"),
        ({"mem_len": "-1"}, "mem_len: input should be greater than or equal to 0, got -1"),
        ({"as_fairseq": True, "warm": "near"}, "reads the text as one long pass: use --warm exact"),
        ({"as_fairseq": True, "tgt_len": 1}, "scores one token less than tgt_len"),
        (
            {"per_token_text": Path("x"), "mem_len": "0,4"},
            "--per-token-text x holds one result: give one",
        ),
        (
            {"per_token_text": Path("x"), "no_memory": True},
            "--per-token-text x holds one result: give one",
        ),
        ({"per_token_text": ROOT}, "is no file that can be written"),
        ({"per_token_text": ROOT / "no" / "where"}, "is no file that can be written"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(
    run: Path, options: dict[str, Any], told: str
) -> None:
    options = {key: Path(value) if value == "nowhere" else value for key, value in options.items()}
    with pytest.raises(InputError) as refusal:
        evaluated(**{"run": run, **options})
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (run / "evals").exists()


def test_a_corpus_in_another_vocabulary_is_refused(run: Path, tmp_path: Path) -> None:
    other = write_corpus(
        tmp_path / "other", vocabulary_size=30, valid=random_documents(50, vocabulary_size=30)
    )
    with pytest.raises(InputError, match=r"another vocabulary.*prepare it with --vocab"):
        evaluated(run, data=other.path)


def test_a_run_that_lost_its_corpus_asks_for_one(run: Path, corpus: Path) -> None:
    (run / "corpus.json").unlink()
    with pytest.raises(InputError, match=r"corpus\.json names no corpus: give one with --data"):
        evaluated(run)
    assert evaluated(run, data=corpus)["n_tokens"] > 0


def test_a_run_whose_corpus_moved_asks_where_it_is(run: Path) -> None:
    named = json.loads((run / "corpus.json").read_text()) | {"path": "/nowhere/corpus"}
    (run / "corpus.json").write_text(json.dumps(named))
    with pytest.raises(InputError) as error:
        evaluated(run)
    assert str(error.value) == (
        f"/nowhere/corpus is not there any more, where {run} had its corpus: say with --data where "
        f"it is now"
    )


def test_a_checkpoint_cannot_name_the_code_that_reads_it(run: Path) -> None:
    alter_state(run, '"factory": null', '"factory": "os:mkdir"')
    with pytest.raises(InputError, match=r"is of model.factory os:mkdir, but .*config.json says"):
        evaluated(run, checkpoint="6")
