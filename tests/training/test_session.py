"""Where a run goes on from, what may change on the way, and what is refused without a trace."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import lone_world
from saved_checkpoints import alter_train_state, contents, flip_a_bit
from training import Case, checkpoint_hashes, events, losses, run_cases, write_text

from trainer import read_metrics
from trainer.checkpoint.folder import directory
from trainer.checkpoint.pointers import name_of
from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import open_corpus
from trainer.data.header import read_header
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.engine.optimizers.schedules import cosine
from trainer.errors import Exit
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run
from trainer.track.run_files.results import valid_measure
from trainer.training import session

BASE = [
    "--train.max-steps",
    "20",
    "--optim.lr",
    "3e-3",
    "--model.dropout",
    "0.2",
    "--checkpoint.interval-steps",
    "5",
    "--checkpoint.keep-last",
    "9",
    "--tracking.wandb",
    "offline",
]
LONGER = ["--train.max-steps", "30", "--allow-change", "train.max_steps"]


class Runs:
    """A base run of 20 steps, and what became of runs begun with what it left."""

    def __init__(self, folder: Path, corpus: Path) -> None:
        self.folder, self.corpus = folder, corpus
        self.cases: dict[str, Case] = {}
        self.told: dict[str, str] = {}
        self.before: dict[str, dict[str, bytes]] = {}

    def case(self, name: str, *flags: str, ends: Exit = Exit.DONE, **changes: Any) -> Case:
        return Case(self.folder / name, flags=[*BASE, *flags], ends=ends, **changes)

    def begin(self, name: str, *flags: str, ends: Exit = Exit.DONE, **changes: Any) -> Path:
        """Plan a run in a directory of that name."""
        self.cases[name] = self.case(name, *flags, ends=ends, **changes)
        return self.cases[name].run_dir

    def copy(self, name: str, *flags: str, ends: Exit = Exit.DONE, **changes: Any) -> Path:
        """Plan a run in a copy of the base run's directory."""
        run_dir = self.begin(name, *flags, ends=ends, **changes)
        shutil.copytree(self.folder / "base", run_dir)
        return run_dir

    def run(self) -> None:
        """Run what was planned, and note what changed where it was refused."""
        self.before = {name: contents(case.run_dir) for name, case in self.cases.items()}
        told = run_cases(list(self.cases.values()), corpus=self.corpus, n_ranks=1)
        refused = [name for name, case in self.cases.items() if case.ends is Exit.BAD_INPUT]
        self.told = dict(zip(refused, told, strict=True))


def retell(folder: Path, corpus: Path, *, vocabulary: bool) -> Path:
    """Return another text; in the same vocabulary, or in its own."""
    text = write_text(folder / "other.txt", "the island", n_lines=400)
    out = folder / ("kept" if vocabulary else "own")
    vocab = corpus if vocabulary else None
    prepare(PrepareOptions(out=out, train=(text,), valid=(text,), tokenizer="words", vocab=vocab))
    return out


def prepared_again(folder: Path, corpus: Path, name: str, **splits: Path) -> Path:
    """Return the same train text in the same vocabulary, with other texts beside it."""
    train = tuple(map(Path, read_header(corpus, "train").made["train"]))
    others = {split: (path,) for split, path in splits.items()}
    prepare(PrepareOptions(out=folder / name, train=train, vocab=corpus, **others))
    return folder / name


FEW_STEPS = ["--valid.interval-steps", "1", "--train.max-steps", "2", "--optim.warmup-steps", "1"]


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Train all of these runs, in two processes one after the other."""
    folder = tmp_path_factory.mktemp("session")
    runs = Runs(folder, corpus)
    run_cases([runs.case("base")], corpus=corpus, n_ranks=1)
    kept = retell(folder, corpus, vocabulary=True)
    own = retell(folder, corpus, vocabulary=False)
    step_10 = directory(folder / "base") / name_of(10)

    runs.copy("again")
    flip_a_bit(corrupt_file(runs.copy("corrupt"), 20))
    hopeless = runs.copy("hopeless", ends=Exit.BAD_INPUT)
    for step in (5, 10, 15, 20):
        flip_a_bit(corrupt_file(hopeless, step))
    runs.begin("must", "--resume", "must", ends=Exit.BAD_INPUT)
    runs.copy("never", "--resume", "never", ends=Exit.BAD_INPUT)

    runs.copy("longer", *LONGER)
    runs.copy("longer unannounced", *LONGER[:2], ends=Exit.BAD_INPUT)
    for name, flag, value in (
        ("lr", "optim.lr", "5e-3"),
        ("clip", "optim.gradient_clipping", "1e-3"),
        ("dropout", "model.dropout", "0.5"),
    ):
        run_dir = runs.copy(name, f"--{flag}", value, "--allow-change", flag)
        for step in (15, 20):
            shutil.rmtree(directory(run_dir) / name_of(step))
    runs.copy("free", "--tracking.tags", "x", "--checkpoint.keep-last", "1", *LONGER)
    runs.copy("other seed and size", "--seed", "2", "--train.tgt-len", "9", ends=Exit.BAD_INPUT)
    runs.copy("other corpus", corpus=kept, ends=Exit.BAD_INPUT)
    runs.copy("other vocabulary", corpus=own, ends=Exit.BAD_INPUT)
    (same_valid,) = map(Path, read_header(corpus, "valid").made["valid"])
    other = write_text(folder / "another.txt", "the bell", n_lines=60)
    validating = [*LONGER, "--valid.interval-steps", "5"]
    more = prepared_again(folder, corpus, "more", valid=same_valid, test=other)
    runs.copy("a split more", *validating, corpus=more)
    revalid = prepared_again(folder, corpus, "revalid", valid=other)
    another = runs.copy("another valid", *validating, corpus=revalid)
    otherwise = runs.copy("valid read otherwise", *validating, "--valid.mem-len", "3")
    as_before = ScoringConfig(tgt_len=12, mem_len=20)
    of = valid_measure(open_corpus(corpus), as_before, precision="fp32").model_dump(mode="json")
    for run_dir, best_of in ((another, None), (otherwise, of)):  # a loss that is not reached again
        alter_train_state(run_dir, best_loss=0.01, best_step=20, validated_step=20, best_of=best_of)

    runs.begin("fork", "--resume-from", str(step_10))
    runs.begin("fork of a finished run", "--resume-from", str(folder / "base"))
    weights_only = ["--init-from", str(folder / "base"), *FEW_STEPS]
    runs.begin("init", *weights_only, corpus=kept)
    runs.begin("init from a path", *weights_only, "--init-from", str(step_10))
    runs.begin("init own vocabulary", *weights_only, corpus=own, ends=Exit.BAD_INPUT)
    runs.begin("init larger", *weights_only, "--model.d-inner", "50", ends=Exit.BAD_INPUT)
    runs.begin("init nowhere", "--init-from", str(folder), ends=Exit.BAD_INPUT)

    runs.cases["fork again"] = runs.cases["fork"]
    runs.run()
    return runs


def corrupt_file(run_dir: Path, step: int) -> Path:
    return directory(run_dir) / name_of(step) / "weights-00000.safetensors"


def state_at(run_dir: Path, step: int) -> dict[str, Any]:
    path = directory(run_dir) / name_of(step) / "state.json"
    values: dict[str, Any] = json.loads(path.read_text())["train"]
    return values


def test_a_finished_run_says_so_and_changes_nothing(runs: Runs) -> None:
    assert contents(runs.cases["again"].run_dir) == runs.before["again"]


def test_resuming_skips_what_is_not_whole_and_says_why(runs: Runs) -> None:
    run_dir = runs.cases["corrupt"].run_dir
    (event,) = events(run_dir, "resume")
    assert event["step"] == 15
    (skipped,) = event["skipped"]
    assert str(corrupt_file(run_dir, 20)) in skipped
    assert losses(run_dir) == losses(runs.folder / "base")
    assert checkpoint_hashes(run_dir, 20) == checkpoint_hashes(runs.folder / "base", 20)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hopeless", "no whole checkpoint"),
        ("must", "has no checkpoint"),
        ("never", "has checkpoints"),
        ("longer unannounced", "was begun with train.max_steps 20, not 30: to change that, add"),
        ("other seed and size", "is another run's: seed 1111, not 2; train.tgt_len 12, not 9"),
        ("other corpus", "was trained on corpus"),
        ("other vocabulary", "was trained on corpus"),
        ("init own vocabulary", "prepare the corpus with --vocab"),
        ("init larger", "layers.0.feed_forward.inner.bias is 48, the model's 50"),
        ("init nowhere", "no checkpoint here"),
    ],
)
def test_what_is_refused_leaves_no_trace(runs: Runs, name: str, told: str) -> None:
    assert told in runs.told[name]
    assert "\n" not in runs.told[name]
    assert contents(runs.cases[name].run_dir) == runs.before[name]
    assert runs.cases[name].run_dir.exists() == bool(runs.before[name])


def test_the_newest_hopeless_checkpoints_are_named_and_the_others_counted(runs: Runs) -> None:
    for step in (10, 15, 20):
        assert str(corrupt_file(runs.cases["hopeless"].run_dir, step)) in runs.told["hopeless"]
    assert runs.told["hopeless"].endswith("; and 1 more")


def test_a_finished_run_goes_on_when_max_steps_is_raised(runs: Runs) -> None:
    run_dir, base = runs.cases["longer"].run_dir, runs.folder / "base"
    found = losses(run_dir)
    assert list(found) == list(range(1, 31))
    assert {step: found[step] for step in range(1, 21)} == losses(base)
    (event,) = events(run_dir, "resume")
    assert event["changes"] == [{"field": "train.max_steps", "before": 20, "after": 30}]


def rates(run_dir: Path) -> dict[int, float]:
    return {r["step"]: r["optim/lr"] for r in read_metrics(run_dir, kind="train")}


@pytest.mark.parametrize(("name", "lr", "max_steps"), [("lr", 5e-3, 20), ("longer", 3e-3, 30)])
def test_a_changed_schedule_is_in_force_on_the_first_step(
    runs: Runs, name: str, lr: float, max_steps: int
) -> None:
    run_dir = runs.cases[name].run_dir
    (event,) = events(run_dir, "resume")
    for step, rate in rates(run_dir).items():
        if step > event["step"]:
            expected = cosine(step, lr=lr, min_lr=0, warmup_steps=4, max_steps=max_steps)
            assert rate == pytest.approx(expected, rel=1e-12), step


def test_changes_act_on_the_first_step_and_on_what_they_concern(runs: Runs) -> None:
    base = losses(runs.folder / "base")
    # What is updated otherwise in step 11 shows in the loss of step 12; dropout shows at once.
    for name, first_seen in (("lr", 12), ("clip", 12), ("dropout", 11)):
        found = losses(runs.cases[name].run_dir)
        different = [step for step in base if found[step] != base[step]]
        assert different == list(range(first_seen, 21)), name


def test_free_changes_need_no_announcement(runs: Runs) -> None:
    run_dir = runs.cases["free"].run_dir
    assert losses(run_dir) == losses(runs.cases["longer"].run_dir)
    assert [path.name for path in directory(run_dir).glob("step-*")] == ["step-00000030"]


def test_a_corpus_with_a_split_more_is_gone_on_with(runs: Runs) -> None:
    run_dir = runs.cases["a split more"].run_dir
    assert losses(run_dir) == losses(runs.cases["longer"].run_dir)
    (event,) = events(run_dir, "resume")
    (test,) = [change for change in event["changes"] if change["field"] != "train.max_steps"]
    assert (test["field"], test["before"]) == ("splits.test", None)


def test_another_valid_split_is_told(runs: Runs) -> None:
    (event,) = events(runs.cases["another valid"].run_dir, "resume")
    assert "splits.valid" in {change["field"] for change in event["changes"]}


@pytest.mark.parametrize("name", ["another valid", "valid read otherwise"])
def test_losses_of_another_measure_are_not_compared(runs: Runs, name: str) -> None:
    run_dir = runs.cases[name].run_dir
    assert losses(run_dir) == losses(runs.cases["longer"].run_dir)
    validations = read_metrics(run_dir, kind="valid")
    assert [record["step"] for record in validations] == [20, 25, 30]
    lowest = min(record["valid/loss"] for record in validations)
    assert validations[-1]["valid/best_loss"] == lowest > 0.01


def test_a_fork_is_the_parent_s_run_under_a_name_of_its_own(runs: Runs) -> None:
    run_dir, base = runs.cases["fork"].run_dir, runs.folder / "base"
    assert losses(run_dir) == {s: loss for s, loss in losses(base).items() if s > 10}
    assert checkpoint_hashes(run_dir, 20) == checkpoint_hashes(base, 20)
    parent, child = state_at(base, 20), state_at(run_dir, 20)
    assert child["parent"] == str((directory(base) / name_of(10)).resolve())
    assert parent["wandb_id"]
    assert child["wandb_id"] not in (None, parent["wandb_id"])
    assert len(events(run_dir, "resume")) == 1  # the second time it was done


def test_a_fork_of_a_finished_run_has_its_checkpoint(runs: Runs) -> None:
    run_dir = runs.cases["fork of a finished run"].run_dir
    assert checkpoint_hashes(run_dir, 20) == checkpoint_hashes(runs.folder / "base", 20)


@pytest.mark.parametrize(("name", "which"), [("init", "last"), ("init from a path", "10")])
def test_weights_alone_are_taken_and_nothing_else(runs: Runs, name: str, which: str) -> None:
    case = runs.cases[name]
    base, data = runs.folder / "base", case.corpus or runs.corpus
    options = EvalOptions(run_dir=base, checkpoint=which, split="valid", data=data)
    (parent,) = evaluate_run(options, lone_world())
    first, _, second = read_metrics(case.run_dir, kind="valid")
    assert (first["step"], second["step"]) == (0, 2)
    assert first["valid/loss"] == pytest.approx(parent.loss, rel=1e-6)
    assert second["valid/loss"] != pytest.approx(parent.loss, rel=1e-6)
    assert list(losses(case.run_dir)) == [1, 2]
    state = state_at(case.run_dir, 2)
    assert (state["step"], state["data_step"], state["attempt"]) == (2, 2, 1)
    assert name_of(10 if which == "10" else 20) in state["parent"]
    assert events(case.run_dir, "start")[0]["parent"] == state["parent"]


@pytest.mark.parametrize(("tf32", "told"), [(False, ["highest"]), (True, ["high"])])
def test_products_in_fp32_are_rounded_on_a_gpu_if_that_is_asked_for(
    tf32: bool, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", said.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not tf32)
    session.prepare_products(torch.device("cuda"), tf32=tf32)
    assert said == told
    assert torch.backends.cudnn.allow_tf32 is tf32
