"""Schedules of lengths are read from one word of JSON, checked, and joined into stages."""

import pytest

from trainer.config.command_line.arguments import parse_show, parse_train
from trainer.config.lengths import Lengths, Stage, stages
from trainer.errors import InputError


def test_stages_begin_where_any_schedule_changes() -> None:
    assert stages(((0, 8), (5, 16)), ((0, 0), (3, 4), (5, 9)), ((0, 2),)) == (
        Stage(0, Lengths(8, 0, 2)),
        Stage(3, Lengths(8, 4, 2)),
        Stage(5, Lengths(16, 9, 2)),
    )


@pytest.mark.parametrize(
    ("flag", "text", "expected"),
    [
        ("tgt-len", "[[0, 8], [3, 32]]", ((0, 8), (3, 32))),
        ("mem-len", "[[0,0],[7,96]]", ((0, 0), (7, 96))),
        ("bptt-segments", "[[0, 1]]", ((0, 1),)),
        ("tgt-len", "None", None),
        ("tgt-len", "null", None),
    ],
)
def test_a_schedule_is_one_word(flag: str, text: str, expected: object) -> None:
    train = parse_show(["quickstart", f"--train.{flag}-schedule", text]).experiment.train
    assert getattr(train, f"{flag.replace('-', '_')}_schedule") == expected


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--train.tgt-len-schedule [[1,32]]", "one that begins with [0, value]"),
        ("--train.tgt-len-schedule []", "one that begins with [0, value]"),
        ("--train.tgt-len-schedule [[0,8],[3,16],[3,32]]", "has steps that grow"),
        ("--train.tgt-len-schedule [[0,0],[3,32]]", "has values of at least 1"),
        ("--train.tgt-len-schedule [[0,8],[3,16]]", "has 32, the field's own value"),
        ("--train.mem-len-schedule [[0,96],[3,128]]", "has 96, the field's own value"),
        (
            "--train.same-length True --train.mem-len-schedule [[0,0],[3,96]]",
            "has values of at least 1",
        ),
        ("--train.tgt-len-schedule [[0,8],[3]]", "train.tgt_len_schedule.1.1 is missing"),
        ("--train.tgt-len-schedule [[0,8],[3,x]]", "should be a valid array, got '[[0,8],[3,x]]'"),
        ("--train.tgt-len-schedule 8", "should be a valid array, got 8"),
    ],
)
def test_what_is_no_schedule_is_told(flags: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_show(["quickstart", *flags.split()])
    assert told in str(refused.value)


def test_help_says_that_it_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_train(["quickstart", "--help"])
    assert "--train.mem-len-schedule JSON" in capsys.readouterr().out
