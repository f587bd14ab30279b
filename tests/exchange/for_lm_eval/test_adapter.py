"""lm-eval gets the same numbers from a run as from its export for transformers."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import foreign_files
import numpy as np
import pytest
from builders import tiny_model
from peer import LM_EVAL, ask_lm_eval, needs_peer
from tokenizer_files import LEARNT_FROM

import trainer
from trainer.data.text.pieces import Piece
from trainer.data.vocabulary.files import TokenizerVocabulary, save_vocabulary
from trainer.exchange.exporting import export
from trainer.exchange.importing import import_checkpoint
from trainer.inference.settings import scoring_of
from trainer.inference.texts.continuations import document_nats

pytestmark = needs_peer(LM_EVAL, "lm_eval")

LINES = [line.strip() for line in LEARNT_FROM.splitlines() if len(line.split()) > 3]
#: From one token to many times the memory.
TEXTS = ["a", *LINES[:3], "\n".join(LINES[3:9]) + "\n", " " + LINES[9]]

#: Choices after contexts, whole texts, and generations up to an end.
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{label}}",
        "doc_to_choice": "{{choices}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "ends": {
        "output_type": "generate_until",
        "doc_to_text": "{{context or 'the'}}",  # after nothing, transformers reads pads alone
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["I", "<("], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
}
DOCUMENTS = [
    {
        "text": text,
        "context": context,
        "choices": [f" {other.split()[0]}", " zebra ", other[:9]],
        "label": i % 3,
    }
    for i, ((context, other), text) in enumerate(zip(pairwise(["", *TEXTS]), TEXTS, strict=True))
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a small model of subwords."""
    folder = tmp_path_factory.mktemp("lm-eval")
    vocabulary = TokenizerVocabulary.build(iter([Piece(LEARNT_FROM, ends_document=True)]), size=300)
    (folder / "vocabulary").mkdir()
    save_vocabulary(vocabulary, folder / "vocabulary" / "vocabulary.json")
    model = tiny_model(vocabulary.size, cutoffs=(50, 120), div_val=2)
    symbols = [str(i) for i in range(vocabulary.size)]
    theirs = foreign_files.write_huggingface(folder / "theirs", model, symbols)
    return import_checkpoint(theirs, out=folder / "run", vocab=folder / "vocabulary").run_dir


@pytest.fixture(scope="module")
def answers(run: Path) -> list[dict[str, Any]]:
    """Return what lm-eval files of the run, and of its exports for us and for transformers."""
    folder = run.parent
    export(run, out=folder / "ours", which="best", form="txl")
    export(run, out=folder / "theirs-now", which="best", form="transformers")
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "documents.json").write_text("".join(f"{json.dumps(d)}\n" for d in DOCUMENTS))
    for name, task in TASKS.items():
        data = {"data_files": {"test": str(tasks / "documents.json")}}
        common = {"task": name, "dataset_path": "json", "dataset_kwargs": data}
        (tasks / f"{name}.yaml").write_text(json.dumps({**common, "test_split": "test", **task}))
    asked = ["--tasks", ",".join(TASKS), "--include_path", str(tasks)]
    hf = f"pretrained={folder / 'theirs-now'},trust_remote_code=True"
    return ask_lm_eval(
        folder,
        [
            ["--model", "txl", "--model_args", f"run={run},checkpoint=last", *asked],
            ["--model", "txl", "--model_args", f"run={folder / 'ours'}", *asked, "-b", "4"],
            ["--model", "hf", "--model_args", hf, *asked, "-b", "3", "--device", "cpu"],
        ],
    )


def test_results_are_those_of_transformers(answers: Any) -> None:
    run, exported, theirs = (answer["results"] for answer in answers)
    for task in TASKS:
        numbers = {name: x for name, x in theirs[task].items() if isinstance(x, float)}
        assert len(numbers) >= len(TASKS[task]["metric_list"])
        for ours in (run, exported):
            found = {name: ours[task][name] for name in numbers}
            assert _in_nats(found) == pytest.approx(_in_nats(numbers), rel=1e-6)
    assert 0 < theirs["choices"]["acc,none"] < 1


def _in_nats(numbers: dict[str, float]) -> dict[str, float]:
    """Return the numbers with the logarithm of a perplexity, which is exp of 47 nats here."""
    return {name: math.log(x) if "perplexity" in name else x for name, x in numbers.items()}


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_is_that_of_transformers(answers: Any, task: str) -> None:
    run, exported, theirs = (flat(answer["samples"][task]) for answer in answers)
    assert len(theirs) >= len(DOCUMENTS)
    for ours in (run, exported):
        for mine, its in zip(ours, theirs, strict=True):
            assert mine == (pytest.approx(its, rel=1e-5) if isinstance(its, float) else its)


def test_generations_end_in_different_places(answers: Any) -> None:
    texts = flat(answers[0]["samples"]["ends"])
    assert len(set(map(len, texts))) > 2
    assert not any(
        end in text for text in texts for end in TASKS["ends"]["generation_kwargs"]["until"]
    )


def flat(answers: Any) -> list[Any]:
    """Return numbers and texts in any nesting of lists, in order."""
    if not isinstance(answers, list):
        return [number(answers)]
    return [value for answer in answers for value in flat(answer)]


def number(answer: Any) -> Any:
    """Return a number that lm-eval filed as a text."""
    try:
        return float(answer)
    except ValueError:
        return answer


def test_whole_texts_are_read_with_memory_every_token_once(answers: Any, run: Path) -> None:
    model = trainer.load(run)
    end = model.vocabulary.eos_id
    assert end is not None
    documents = [[end, *model.vocabulary.encode(text)] for text in TEXTS]
    nats = document_nats(model, documents, scoring=scoring_of(model.experiment))
    assert flat(answers[0]["samples"]["texts"]) == pytest.approx([-n for n in nats], rel=1e-6)
    assert max(map(len, documents)) > 4 * model.experiment.eval.mem_len
    assert np.isfinite(nats).all()
