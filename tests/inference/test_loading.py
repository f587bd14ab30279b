"""A folder's model is built by sizes that its weights bear out, and by no code that it names."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_files
import pytest
from builders import CPU, tiny_model
from safetensors.torch import load_file, save_file

import trainer
from trainer.checkpoint.hashing import fingerprint
from trainer.commands.command_line import parse_command
from trainer.config.precision import Precision
from trainer.errors import InputError
from trainer.exchange.exporting import export
from trainer.exchange.importing import import_checkpoint
from trainer.inference.loading import open_trained

V = 20
WORDS = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, V))]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run's directory with one whole checkpoint."""
    theirs = foreign_files.write_huggingface(tmp_path / "theirs", tiny_model(V), WORDS)
    return import_checkpoint(theirs, out=tmp_path / "run").run_dir


def change(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the experiment in both files that say it, and make the manifest fit again."""
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    config, state = run / "config.json", checkpoint / "state.json"
    for path in (config, state):
        values = json.loads(path.read_text())
        change(values if path is config else values["experiment"])
        path.write_text(json.dumps(values))
    seal(checkpoint)


def seal(checkpoint: Path) -> None:
    """Make the manifest fit the files, as anybody can."""
    manifest = checkpoint / "manifest.json"
    values = json.loads(manifest.read_text())
    for name in values["files"]:
        values["files"][name] = fingerprint(checkpoint / name)
    manifest.write_text(json.dumps(values))


EVIL = """
from pathlib import Path
from trainer.model.transformer_xl import TransformerXL

Path(__file__).with_name("imported").touch()


def build(config, vocabulary_size):
    return TransformerXL(config, vocabulary_size)
"""


@pytest.fixture
def evil(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run that names code which leaves a file where it was imported."""
    folder = run.parent / "code"
    folder.mkdir()
    (folder / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    change(run, lambda values: values["model"].update(factory="evil:build"))
    return folder / "imported"


@pytest.mark.parametrize("precision", ["fp16", "fp16_autocast"])
def test_what_was_trained_in_fp16_is_read_in_fp32_on_a_cpu(run: Path, precision: Precision) -> None:
    opened = open_trained(run, which="last", precision=precision, device=CPU)
    assert opened.precision == "fp32"
    assert opened.nats("w2 w3 w4") == trainer.load(run).nats("w2 w3 w4")


def test_code_that_a_folder_names_is_not_imported_unasked(run: Path, evil: Path) -> None:
    said = "model.factory 'evil:build': it runs only with --trust-code"
    commands: list[Callable[[], object]] = [
        lambda: trainer.load(run),
        lambda: open_trained(run, which="last", precision=None, device=CPU),
        parse_command(["eval", str(run), "--data", "corpus"]).run,
        parse_command(["generate", str(run), "--prompt", "w2"]).run,
        parse_command(["score", str(run), "text.txt"]).run,
    ]
    for command in commands:
        with pytest.raises(InputError, match=said):
            command()
    for form in ("txl", "huggingface"):
        with pytest.raises(InputError, match="whose code an export cannot carry"):
            export(run, out=run.parent / "out", which="best", form=form)  # type: ignore[arg-type]
    (run / "metrics.jsonl").touch()
    parse_command(["report", str(run)]).run()
    parse_command(["config", "show", str(run / "config.json")]).run()
    assert not evil.exists()


def test_code_that_is_trusted_runs(run: Path, evil: Path) -> None:
    assert trainer.load(run, trust=True).nats("w2 w3 w4")
    assert evil.exists()
    parse_command(["generate", str(run), "--prompt", "w2", "--trust-code"]).run()


def test_an_export_names_no_code(run: Path, evil: Path) -> None:
    change(run, lambda values: values["model"].update(factory=None))
    export(run, out=run.parent / "out", which="best", form="txl")
    config = run.parent / "out" / "config.json"
    values = json.loads(config.read_text())
    values["experiment"]["model"]["factory"] = "evil:build"
    config.write_text(json.dumps(values))
    with pytest.raises(InputError, match="which an exported model may not"):
        trainer.load(run.parent / "out", trust=True)
    assert not evil.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_layer", 1_000_000),
        ("n_layer", 3),
        ("d_model", 1_000_000),
        ("d_inner", 1_000_000),
        ("cutoffs", [3, 7]),
        ("n_head", 999_999),
        ("d_head", 1),
    ],
)
def test_no_model_is_built_by_sizes_that_the_weights_have_not(
    run: Path, name: str, value: Any
) -> None:
    change(run, lambda values: values["model"].update({name: value}))
    with pytest.raises(InputError, match="does not fit"):
        trainer.load(run)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("step", None, "train: step"),
        ("step", -1, "step is missing, or no number of steps"),
        ("best_loss", 1.5, "best_loss and best_step go together"),
        ("attempt", "1", "attempt"),
        ("parent", 3, "parent"),
        ("seconds", 10**400, "seconds"),
    ],
)
def test_a_state_is_believed_as_far_as_its_fields_are_of_their_kind(
    run: Path, field: str, value: Any, said: str
) -> None:
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    values = json.loads((checkpoint / "state.json").read_text())
    values["train"][field] = value
    (checkpoint / "state.json").write_text(json.dumps(values))
    seal(checkpoint)
    with pytest.raises(InputError, match=said):
        trainer.load(run)


def test_weights_of_another_kind_of_number_are_refused(run: Path) -> None:
    (file,) = (run / "checkpoints").glob("step-*/weights-*")
    tensors = {name: tensor.long() for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    seal(file.parent)
    with pytest.raises(InputError, match=r"do not hold .* in fp32"):
        trainer.load(run)
