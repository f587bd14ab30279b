"""Every command of ``txl`` does what its help says, and ends with a code of the table."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from training import ROOT, Case, environment
from txl_command import Ended, exit_code

from trainer.commands.command_line import COMMANDS, parse_command
from trainer.config.recipe import recipe_names
from trainer.errors import Exit
from trainer.launchers import RENDEZVOUS, complete_environ

Txl = Callable[..., Ended]


@pytest.fixture
def txl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Txl:
    """Return a function that runs a command as the shell does, in this process, left as it was."""
    for key in RENDEZVOUS:  # which `txl eval` sets
        monkeypatch.setenv(key, complete_environ({})[key])

    def run(*argv: object, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        code = exit_code(monkeypatch, *argv)
        return Ended(code, *capsys.readouterr())

    return run


def test_prepare_says_what_it_made_and_corpus_commands_check_it(txl: Txl, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    made = txl(
        "prepare", "--train", "-", "--tokenizer", "words", "--out", out, stdin="a b c\nb c\n" * 9
    )
    assert made.code == 0
    assert str(out) in made.out
    shown = txl("corpus", "show", out)
    assert (shown.code, "63 tokens" in shown.out, "words" in shown.out) == (0, True, True)
    assert txl("corpus", "verify", out) == (0, f"{out}: whole\n", "")
    data = out / "train.bin"
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    damaged = txl("corpus", "verify", out)
    assert damaged.code == Exit.BAD_INPUT
    assert "train.bin: split train is corrupt" in damaged.err


def test_a_changed_corpus_ends_a_command_with_a_code_of_its_own(
    txl: Txl, trained: Path, corpus: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(corpus, tmp_path / "changed") / "valid.bin"
    data.write_bytes(b"\xff" * data.stat().st_size)
    ended = txl("eval", trained, "--data", data.parent, "--split", "valid", "--device", "cpu")
    assert ended.code == Exit.CORPUS
    assert f"error: {data} has id 65,535 where the run reads" in ended.err


def test_eval_prints_a_table_and_files_its_numbers(txl: Txl, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    ended = txl(
        "eval", run, "--split", "valid", "--mem-len", "10,20", "--no-memory", "--device", "cpu"
    )
    assert ended.code == 0, ended.err
    results = [json.loads(path.read_text()) for path in (run / "evals").glob("*.json")]
    assert {result["settings"]["mem_len"] for result in results} == {0, 10, 20}
    assert all(f"{result['loss']:.6f}" in ended.out for result in results)
    refused = txl("eval", run, "--mem-len", "ten")
    assert refused.code == Exit.BAD_INPUT
    assert "'ten' is not a list of lengths" in refused.err


def test_generate_continues_a_prompt_the_same_for_the_same_seed(txl: Txl, trained: Path) -> None:
    def say(*flags: object, stdin: str = "") -> str:
        ended = txl("generate", trained, "--n-tokens", "12", "--device", "cpu", *flags, stdin=stdin)
        assert ended.code == 0, ended.err
        return ended.out

    first = say("--prompt", "the miller", "--seed", "3")
    assert first.startswith("the miller")
    assert len(first.split()) > 8
    assert say("--prompt", "-", "--seed", "3", stdin="the miller") == first
    assert say("--prompt", "the miller", "--seed", "4") != first
    cold = say("--prompt", "the miller", "--temperature", "0", "--seed", "1")
    assert say("--prompt", "the miller", "--temperature", "0", "--seed", "2") == cold


def test_a_run_that_never_validated_is_read_at_its_last_checkpoint(
    txl: Txl, trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "checkpoints" / "best").unlink()
    flags = ("--n-tokens", "12", "--device", "cpu")
    assert txl("generate", run, *flags) == txl("generate", run, *flags, "--checkpoint", "6")


def test_report_tells_of_a_run_in_words_and_in_json(txl: Txl, trained: Path) -> None:
    told = txl("report", trained)
    assert (told.code, "done" in told.out) == (0, True)
    in_json = txl("report", trained, "--json")
    assert json.loads(in_json.out)
    missing = txl("report", trained / "logs")
    assert missing.code == Exit.BAD_INPUT


def test_config_shows_both_files_filled_in_and_their_schema(txl: Txl) -> None:
    shown = json.loads(txl("config", "show", "wt103-base", "--world-size", "4").out)
    batch = shown["experiment"]["train"]["train_batch_size"]
    assert shown["deepspeed"]["train_batch_size"] == batch
    assert shown["deepspeed"]["train_micro_batch_size_per_gpu"] == batch // 4
    schema = json.loads(txl("config", "schema").out)
    assert set(schema) == {"experiment", "deepspeed"}


def test_lists_are_whole(txl: Txl) -> None:
    recipes = txl("recipes").out
    assert [line.split()[0] for line in recipes.splitlines()] == recipe_names()
    codes = txl("exit-codes").out
    assert [int(line.split()[0]) for line in codes.splitlines()] == sorted(Exit)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["evaluate", "run"],
        ["eval"],
        ["eval", "run", "--tgt-length", "3"],
        ["generate", "run", "--n-tokens", "many"],
        ["corpus", "mend", "x"],
        ["config"],
        ["train"],
        ["train", "quickstart", "--data", "nowhere", "--tgt_len", "9"],
        ["report", "nowhere"],
        ["eval", "nowhere"],
        ["corpus", "show", "nowhere"],
        ["config", "show", "wt104"],
        ["config", "show", "wt103-base", "--deepspeed-config", "x"],
    ],
    ids=" ".join,
)
def test_bad_arguments_end_with_2_and_a_reason(txl: Txl, argv: list[str]) -> None:
    ended = txl(*argv)
    assert ended.code == Exit.BAD_INPUT
    assert ended.err + ended.out
    assert "Traceback" not in ended.err


def test_one_page_lists_every_command_and_each_answers_for_help(txl: Txl) -> None:
    page = txl("--help")
    assert page.code == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", page.out, re.M), name
        told = txl(*name.split(), "--help")
        assert (told.code, "usage" in told.out) == (0, True), name
        assert "{None}" not in told.out
        assert "--no-no-" not in told.out
        assert "options options" not in told.out
    assert txl("--version") == (0, f"txl {metadata.version('txl-trainer')}\n", "")
    assert "complete -F" in txl("--tyro-print-completion", "bash").out


def test_a_command_that_is_mistyped_is_answered_with_the_nearest(txl: Txl) -> None:
    assert "did you mean 'eval'?" in txl("evla", "run").err
    assert "did you mean 'corpus verify'?" in txl("corpus", "verfy", "x").err
    assert "one of config show, config schema" in txl("config").err


@pytest.mark.parametrize(
    ("words", "no_memory", "same_length"),
    [
        ([], False, None),
        (["--no-memory", "--same-length"], True, True),
        (["--no-memory", "False", "--same-length", "false"], False, False),
        (["--no-memory=true", "--same_length=False"], True, False),
        (["--same-length", "True", "--no-memory", "True"], True, True),
    ],
)
def test_a_boolean_is_its_flag_alone_or_with_its_value(
    words: list[str], no_memory: bool, same_length: bool | None
) -> None:
    command = parse_command(["eval", "run", *words])
    assert (command.no_memory, command.same_length) == (no_memory, same_length)


def test_config_show_takes_what_a_run_takes(txl: Txl) -> None:
    changed = txl("config", "show", "quickstart", "--train.max-steps", "700", "--device", "cpu")
    shown = json.loads(changed.out)
    assert shown["experiment"]["train"]["max_steps"] == 700
    assert shown["deepspeed"]["scheduler"]["params"]["max_steps"] == 700
    assert shown["deepspeed"]["zero_optimization"]["stage"] == 0  # the default of a CPU
    refused = txl("config", "show", "quickstart", "--train.max-step", "7")
    assert (refused.code, "did you mean" in refused.err) == (Exit.BAD_INPUT, True)


@pytest.mark.parametrize("argv", [["--help"], ["eval", "--help"], ["corpus", "--help"]])
def test_help_is_no_error(txl: Txl, argv: list[str]) -> None:
    ended = txl(*argv)
    assert (ended.code, "usage" in ended.out) == (0, True)


def test_a_dry_run_prints_what_it_would_need_and_allocates_nothing(
    corpus: Path, tmp_path: Path
) -> None:
    # A terabyte of weights.
    sizes = ["--model.n-layer", "100", "--model.d-model", "16384", "--model.d-inner", "65536"]
    case = Case(tmp_path / "run", "zero3_bf16", [*sizes, "--dry-run"])
    command = [sys.executable, "-m", "trainer", "train", *case.argv(corpus)]

    def ended(*flags: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, *flags],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    refused, done = ended(), ended("--beyond-memory")
    assert refused.returncode == Exit.BAD_INPUT
    assert len(refused.stderr.splitlines()) == 1
    assert "weights and the optimizer's states alone" in refused.stderr
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["experiment"]["model"]["d_model"] == 16384
    assert told["deepspeed"]["zero_optimization"]["stage"] == 3
    needs = told["needs"]
    per_layer = 16384 * (2 * 65536 + 2 * 32 * 4)
    assert needs["parameters"] > 100 * per_layer
    assert needs["tokens_per_step"] == 8 * 12
    parts = needs["gib_per_rank"]
    assert parts["optimizer states"] == pytest.approx(needs["parameters"] * 8 / 2**30, rel=1e-3)
    assert parts["memory"] == pytest.approx(100 * 20 * 16384 * 8 * 2 * 2 / 2**30, abs=1e-3)
    assert parts["sum"] == pytest.approx(sum(parts.values()) / 2, abs=0.02)
    assert told["start"]["from"] == "the beginning"
    assert not case.run_dir.exists()


def test_a_name_cannot_forge_a_line_of_an_error(txl: Txl, tmp_path: Path) -> None:
    ended = txl("export", tmp_path / "x\nerror: all is well\x1b[2K", "--out", tmp_path / "y")
    assert ended.code == Exit.BAD_INPUT
    assert len(ended.err.splitlines()) == 1
    assert "\x1b" not in ended.err


def test_an_answer_to_flags_of_another_system_has_a_line_for_each(txl: Txl) -> None:
    ended = txl("train", "--n_layer", "16", "--d_model", "410")
    assert ended.code == Exit.BAD_INPUT
    assert [line.split()[-1] for line in ended.err.splitlines()] == [
        "--model.n-layer",
        "--model.d-model",
    ]
