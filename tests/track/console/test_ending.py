"""At the end stand the results, the time, and the commands that come next."""

import math

from trainer.track.console.ending import Last, ending
from trainer.track.run_files.status import RunState, Status

RESULT = {
    "train/loss": 6.5,
    "valid/best_loss": 6.25,
    "valid/best_step": 30,
    "tokens": 40_960,
    "throughput/tokens_per_s": 9990.0,
}
LAST = {"train": Last(40, 6.5, math.exp(6.5)), "valid": Last(40, 6.75, math.exp(6.75))}


def told(state: RunState, splits: tuple[str, ...] = ("train", "valid", "test")) -> list[str]:
    status = Status(state=state, step=40, update=38, max_steps=100, attempt=1, result=RESULT)
    return list(ending(status, LAST, run="my runs/a", splits=splits, seconds=750.0))


def test_results_and_time_come_first() -> None:
    assert told("done")[:5] == [
        "done: 40 of 102 steps, this attempt took 12m30s; 40,960 tokens read, 9.99k tok/s in steps",
        "last train loss 6.5000, ppl 665.14 at step 40",
        "last valid loss 6.7500, ppl 854.06 at step 40",
        "best valid loss 6.2500, ppl 518.01 at step 30",
        "all of it is in my runs/a: metrics.jsonl, checkpoints, logs",
    ]


def test_a_run_that_is_done_is_scored_on_the_text_that_nothing_was_chosen_by() -> None:
    for splits, scored in ((("train", "valid", "test"), "test"), (("train", "valid"), "valid")):
        *_, score, write = told("done", splits)
        assert score.endswith(f"txl eval 'my runs/a' --split {scored}")
        assert write.endswith("txl generate 'my runs/a'")
    assert not any(" eval " in line for line in told("done", ("train",)))


def test_a_run_that_is_not_done_says_how_it_goes_on() -> None:
    go_on = "to go on: run the same command again, with --run-dir 'my runs/a'"
    assert go_on not in told("done")
    for state, said in (("stopped", "stopped: 40 of"), ("requeue", "interrupted: 40 of")):
        lines = told(state)  # type: ignore[arg-type]
        assert lines[0].startswith(said)
        assert go_on in lines


def test_the_speed_per_device_is_told_where_there_are_several() -> None:
    for per_device, said in ((9990.0, "in steps"), (4995.0, "in steps, 5k per device")):
        result = RESULT | {"throughput/tokens_per_s_per_device": per_device}
        status = Status(state="done", step=4, max_steps=4, attempt=1, result=result)
        first, *_ = ending(status, {}, run="a", splits=())
        assert first.endswith(said)


def test_what_a_run_never_had_is_left_out() -> None:
    status = Status(state="stopped", step=0, max_steps=100, attempt=1)
    lines = ending(status, {}, run="a", splits=("train",), seconds=1.0)
    assert not [line for line in lines if "?" in line or "None" in line or "loss" in line]
