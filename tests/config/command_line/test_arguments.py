"""A training command becomes a valid experiment, or one clear error."""

from pathlib import Path
from typing import Any

import pytest

from trainer.config.command_line.arguments import TrainArguments, parse_train, train_flags
from trainer.config.recipe import ExperimentConfig, load_recipe
from trainer.errors import InputError

DATA = ["--data", "corpus"]


def parse(*flags: str) -> TrainArguments:
    return parse_train(["quickstart", *DATA, *flags])


def refusal(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_train(argv)
    return str(caught.value)


def at(experiment: ExperimentConfig, path: str) -> Any:
    value: Any = experiment
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_without_flags_the_experiment_is_the_recipe() -> None:
    assert parse() == TrainArguments(
        recipe="quickstart",
        experiment=load_recipe("quickstart"),
        data=Path("corpus"),
        run_dir=None,
        deepspeed_config=None,
        resume="auto",
        init_from=None,
        resume_from=None,
        allow_change=(),
        profile=None,
        dry_run=False,
        beyond_memory=False,
        local_rank=None,
        device="auto",
    )


@pytest.mark.parametrize(
    ("flags", "path", "value"),
    [
        (["--train.max-steps", "700"], "train.max_steps", 700),
        (["--train.max_steps=700"], "train.max_steps", 700),
        (["--train.max-steps", "2e5"], "train.max_steps", 200_000),
        (["--optim.lr", "1"], "optim.lr", 1.0),
        (["--optim.lr=1e-3"], "optim.lr", 0.001),
        (["--tracking.tensorboard=True"], "tracking.tensorboard", True),
        (["--tracking.tensorboard", "True"], "tracking.tensorboard", True),
        (["--tracking.tensorboard"], "tracking.tensorboard", True),
        (["--model.tie-embedding", "false"], "model.tie_embedding", False),
        (["--train.clamp-len", "30"], "train.clamp_len", 30),
        (["--eval.clamp-len=None"], "eval.clamp_len", None),
        (["--model.cutoffs", "2000", "10000"], "model.cutoffs", (2000, 10000)),
        (["--model.cutoffs=[2000, 10000]"], "model.cutoffs", (2000, 10000)),
        (["--model.cutoffs"], "model.cutoffs", ()),
        (["--optim.betas", "0.8", "0.9"], "optim.betas", (0.8, 0.9)),
        (["--model.norm", "pre"], "model.norm", "pre"),
        (["--tracking.name", "12"], "tracking.name", "12"),
        (["--tracking.tags", "a", "12"], "tracking.tags", ("a", "12")),
        (["--sample.prompt", "None"], "sample.prompt", "None"),
        (["--sample.prompt=--x"], "sample.prompt", "--x"),
        (["--seed", "3"], "seed", 3),
    ],
)
def test_a_flag_changes_its_field_and_no_other(flags: list[str], path: str, value: Any) -> None:
    changed = parse(*flags).experiment
    assert at(changed, path) == value
    assert type(at(changed, path)) is type(value)
    before, after = load_recipe("quickstart").model_dump(), changed.model_dump()
    *parents, leaf = path.split(".")
    for key in parents:
        assert {k: v for k, v in before.items() if k != key} == {
            k: v for k, v in after.items() if k != key
        }
        before, after = before[key], after[key]
    assert {**before, leaf: value} == after


@pytest.mark.parametrize(
    "argv",
    [
        ["--local_rank=3", "quickstart", *DATA],
        ["--local-rank", "3", "quickstart", *DATA],
        ["--local_rank=3", *DATA, "quickstart"],
    ],
)
def test_what_launchers_put_first_is_tolerated(argv: list[str]) -> None:
    args = parse_train(argv)
    assert (args.recipe, args.local_rank, args.data) == ("quickstart", 3, Path("corpus"))


def test_every_option_arrives() -> None:
    args = parse(
        "--run_dir",
        "run",
        "--deepspeed_config",
        "zero2_bf16",
        "--resume=must",
        "--init-from",
        "weights",
        "--allow-change",
        "train.max-steps",
        "optim.lr",
        "--profile",
        "10:15",
        "--dry-run",
        "--device",
        "cpu",
    )
    assert (args.run_dir, args.init_from) == (Path("run"), Path("weights"))
    assert (args.deepspeed_config, args.resume, args.device) == ("zero2_bf16", "must", "cpu")
    assert args.allow_change == ("train.max_steps", "optim.lr")
    assert args.profile == (10, 15)
    assert args.dry_run
    fork = parse("--run-dir", "new", "--resume-from", "run/checkpoints/step-1")
    assert fork.resume_from == Path("run/checkpoints/step-1")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["quickstart"], "--data is missing.*txl prepare"),
        (DATA, "RECIPE is missing.*wt103-base"),
        (["quickstar", *DATA], "did you mean 'quickstart'"),
        (["quickstart", "twice", *DATA], "twice"),
        (["quickstart", *DATA, "--train.max-step", "3"], "did you mean '--train.max-steps'"),
        (["quickstart", *DATA, "--train.max-steps"], "--train.max-steps.*expected one"),
        (["quickstart", *DATA, "--resume", "yes"], "--resume.*'must'"),
        (["quickstart", *DATA, "--resume", "must"], "--resume must needs --run-dir"),
        (["quickstart", *DATA, "--resume-from", "c"], "--resume-from needs --run-dir"),
        (["quickstart", *DATA, "--run-dir", "r", "--resume-from", "c", "--init-from", "c"], "one"),
        (["quickstart", *DATA, "--allow-change", "optim.rl"], "did you mean 'optim.lr'"),
        (["quickstart", *DATA, "--allow-change", "train.tgt-len"], "cannot change"),
        (["quickstart", *DATA, "--profile", "15:10"], "--profile 15:10"),
        (["quickstart", *DATA, "--profile", "10"], "--profile 10"),
        (["quickstart", *DATA, "--local-rank", "x"], "--local-rank.*'x'"),
        (["quickstart", *DATA, "--train.max-steps", "many"], "train.max_steps.*'many'"),
        (["quickstart", *DATA, "--train.max-steps", "1.5"], "train.max_steps.*1.5"),
        (["quickstart", *DATA, "--optim.lr", "-1"], "optim.lr.*greater than 0"),
        (["quickstart", *DATA, "--optim.lr", "nan"], "optim.lr.*finite"),
        (["quickstart", *DATA, "--tracking.tensorboard", "maybe"], "tracking.tensorboard.*'maybe'"),
        (["quickstart", *DATA, "--model.norm", "Pre"], "did you mean 'pre'"),
        (["quickstart", *DATA, "--model.cutoffs", "[1,"], "model.cutoffs"),
        (["quickstart", *DATA, "--optim.betas", "0.9"], "optim.betas"),
        (["quickstart", *DATA, "--model.d-model", "193"], "--model.d-model: .*193 is odd"),
        (["quickstart", *DATA, "-x", "1"], "-x: no such flag"),
    ],
)
def test_a_bad_command_is_one_clear_line(argv: list[str], said: str) -> None:
    message = refusal(*argv)
    assert "\n" not in message
    with pytest.raises(InputError, match=said):
        parse_train(argv)


def test_all_bad_values_are_in_one_error() -> None:
    message = refusal("quickstart", *DATA, "--train.tgt-len", "0", "--optim.lr", "x")
    assert "train.tgt_len" in message
    assert "optim.lr" in message


def test_a_validators_message_comes_through() -> None:
    message = refusal("quickstart", *DATA, "--train.mem-len", "0", "--train.same-length", "True")
    assert "train: same_length with mem_len 0 leaves a query no key" in message


def test_help_says_every_flag_with_its_meaning_and_the_recipes_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for argv, value in ((["--help"], ""), (["wt103-base", "-h"], " [200000]")):
        with pytest.raises(SystemExit) as stop:
            parse_train(argv)
        assert stop.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for flag in train_flags():
            assert flag in text
        assert f"updates after which training ends{value} " in text
