"""With `epoch_order: documents` a run reads pieces in order, after any stop and on any ranks."""

from pathlib import Path

import pytest
from training import Case, begun_from, checkpoint_hashes, losses, run_cases

from trainer.report.inspect.place import place_of
from trainer.report.inspect.reading import Passage, read_step

#: Steps of 120 tokens of every stream's 735: the second epoch begins with step 8.
EPOCHS = (range(1, 8), range(8, 13))
LENGTHS = ["--train.tgt-len", "60", "--train.bptt-segments", "2", "--train.max-steps", "12"]
ORDER = ["--data.epoch-order", "documents", "--data.piece-tokens", "90"]
SAVING = ["--checkpoint.interval-steps", "5", "--checkpoint.keep-last", "9"]
COMMON = [*LENGTHS, *SAVING]
EXACT = [*COMMON, *ORDER, "--model.dropout", "0"]
DROPPED = [*COMMON, *ORDER, "--model.dropout", "0.2"]
SLOTS = ["--train.train-micro-batch-size-per-gpu", "2"]


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return runs by what is special in them."""
    folder = tmp_path_factory.mktemp("documents")
    one = {
        "whole": Case(folder / "whole", "zero1_fp32", EXACT),
        "slots": Case(folder / "slots", "zero0_fp32", [*EXACT, *SLOTS]),
        "same": Case(folder / "same", "zero1_fp32", [*COMMON, "--model.dropout", "0"]),
        "dropped": Case(folder / "dropped", "zero0_bf16_autocast", DROPPED),
    }
    run_cases(list(one.values()), corpus=corpus, n_ranks=1)
    again = Case(folder / "again", "zero0_bf16_autocast", DROPPED)
    begun_from(folder / "dropped", 5, again.run_dir)
    run_cases([again], corpus=corpus, n_ranks=1)
    two = Case(folder / "two", "zero2_fp32", EXACT)
    begun_from(folder / "whole", 5, two.run_dir)
    run_cases([two], corpus=corpus, n_ranks=2)
    return {name: case.run_dir for name, case in one.items()} | {
        "again": again.run_dir,
        "on two ranks": two.run_dir,
    }


def test_losses_do_not_depend_on_slots_and_a_stop_and_ranks(runs: dict[str, Path]) -> None:
    reference = losses(runs["whole"])
    assert losses(runs["slots"]) == pytest.approx(reference, rel=1e-5)
    after = {step: loss for step, loss in reference.items() if step > 5}
    assert losses(runs["on two ranks"]) == pytest.approx(after, rel=1e-5)
    assert len(after) == 7
    same = losses(runs["same"])
    assert min(abs(same[step] / reference[step] - 1) for step in after) > 1e-4


def test_a_resumed_run_is_the_run_bit_by_bit(runs: dict[str, Path]) -> None:
    whole, again = runs["dropped"], runs["again"]
    assert losses(again) == {step: loss for step, loss in losses(whole).items() if step > 5}
    assert checkpoint_hashes(again, 12) == checkpoint_hashes(whole, 12)


def test_what_a_run_read_is_told_and_is_all_of_the_text_once(runs: dict[str, Path]) -> None:
    def passages(step: int) -> list[Passage]:
        place = place_of(runs["whole"], step=step, attempt=None)
        streams = read_step(runs["whole"], place, data=None).streams
        return [passage for stream in streams for passage in stream.passages]

    first, second = [[p for step in steps for p in passages(step)] for steps in EPOCHS]
    read = sorted(place for p in first for place in range(p.position, p.position + p.n_tokens))
    assert read == list(range(5880))
    assert len(first) > 65  # pieces of the text, some read in parts
    assert [p.position for p in first[:8]] != [p.position for p in second[:8]]
