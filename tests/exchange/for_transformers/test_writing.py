"""`txl export --as transformers`: the pages' examples run there, and what cannot be is refused."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from peer import ask_today
from saved_checkpoints import alter_state, contents
from training import ROOT
from txl_command import exit_code

import trainer
from trainer.inference.trained import TrainedModel

PAGE = ROOT / "trainer" / "exchange" / "README.md"


def code_for_transformers(page: str) -> str:
    """Return the one piece of Python that imports transformers."""
    found = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (code,) = (piece for piece in found if "AutoModelForCausalLM" in piece)
    return str(code)


Export = Callable[..., tuple[int, str]]


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    """Run the command; return its exit code, and what it says."""

    def _export(run: Path, out: Path, *flags: str) -> tuple[int, str]:
        how = ("--out", out, "--as", "transformers", *flags)
        code = exit_code(monkeypatch, "export", run, *how)
        return code, "".join(capsys.readouterr())

    return _export


@pytest.fixture
def exported(trained: Path, tmp_path: Path, export: Export) -> Path:
    out = tmp_path / "for-transformers"
    code, said = export(trained, out)
    assert code == 0, said
    assert "see its README.md" in said
    return out


class TestInTransformers:
    def test_the_examples_of_both_pages_run(self, exported: Path, trained: Path) -> None:
        here, folder = trainer.load(trained), str(exported.parent)
        pages = [(exported / "README.md").read_text(), PAGE.read_text()]
        codes = [code_for_transformers(page) for page in pages]
        texts = [
            match for code in codes for match in re.findall(r'text = tokenizer\("(.*?)"', code)
        ]
        tasks = [{"does": "run", "folder": folder, "code": code} for code in codes]
        answers = ask_today(exported.parent / "asked", tasks)
        for answer, text in zip(answers, texts, strict=True):
            generated, _, loss = answer["out"].rstrip("\n").rpartition("\n")
            assert float(loss) == pytest.approx(np.mean(here.nats(text)), rel=1e-6)
            assert generated == continued(here, "It was", n_tokens=40)


def continued(model: TrainedModel, prompt: str, *, n_tokens: int) -> str:
    """Return the prompt and what follows, as the model's tokens spell both."""
    vocabulary = model.vocabulary
    made = model.generate(prompt, n_tokens=n_tokens, temperature=0)
    return vocabulary.decode([*vocabulary.encode(prompt), *vocabulary.encode(made)])


def test_it_holds_what_transformers_needs_and_nothing_else(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md",
        "config.json",
        "configuration_txl.py",
        "generation_config.json",
        "layers_txl.py",
        "memory_txl.py",
        "model.safetensors",
        "modeling_txl.py",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocabulary.json",
    ]


def test_a_folder_that_is_there_is_kept(exported: Path, trained: Path, export: Export) -> None:
    before = contents(exported)
    code, said = export(trained, exported)
    assert code == 2
    assert "exists: give another" in said
    assert contents(exported) == before


@pytest.mark.parametrize(
    ("old", "new", "form", "why"),
    [
        (
            '"factory": null',
            '"factory": "others:build"',
            "transformers",
            "model.factory others:build, whose code an export cannot carry",
        ),
        ('"pair_rows": 0', '"pair_rows": 64', "huggingface", "has tables of tokens or pairs"),
        ('"token_tables": 0', '"token_tables": 1', "huggingface", "has tables of tokens or pairs"),
    ],
)
def test_what_a_form_cannot_hold_is_refused(
    trained: Path, tmp_path: Path, export: Export, old: str, new: str, form: str, why: str
) -> None:
    run, out = Path(shutil.copytree(trained, tmp_path / "run")), tmp_path / "out"
    alter_state(run, old, new)
    config = run / "config.json"
    config.write_text(config.read_text().replace(old, new))
    code, said = export(run, out, "--checkpoint", "last", "--as", form)
    assert code == 2
    assert why in said
    assert not out.exists()
