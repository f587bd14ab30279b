"""`trainer.evaluate` and `trainer.generate` give what the commands give."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from builders import CPU, lone_world

import trainer
from trainer.calls.restoring import restoring
from trainer.errors import InputError
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run
from trainer.inference.loading import open_trained


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained run, to file results in."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_evaluations_are_those_of_the_command_and_are_filed(
    run: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    options = EvalOptions(run_dir=other, split="valid", mem_len="0,20", batch_size=3)
    expected = evaluate_run(options, lone_world())
    capsys.readouterr()
    results = trainer.evaluate(str(run), split="valid", mem_len=(0, 20), batch_size=3, device="cpu")
    assert capsys.readouterr().out == ""
    assert [r.settings.mem_len for r in results] == [0, 20]
    for result, one in zip(results, expected, strict=True):
        assert result.loss == pytest.approx(one.loss, rel=1e-6)
        assert (result.key, result.checkpoint_hash) == (one.key, one.checkpoint_hash)
    filed = [json.loads(path.read_text())["loss"] for path in (run / "evals").glob("*.json")]
    assert sorted(filed) == sorted(result.loss for result in results if result.loss is not None)
    (recipe,) = trainer.evaluate(run, split="valid", mem_len=20, device="cpu")
    assert recipe.loss == pytest.approx(results[1].loss, rel=1e-6)
    with pytest.raises(InputError, match="has no split 'test'"):
        trainer.evaluate(run, device="cpu")


def test_a_text_goes_on_as_the_command_goes_on(trained: Path) -> None:
    trained_model = open_trained(trained, which="3", precision=None, device=CPU)
    how = {"n_tokens": 12, "temperature": 0.7, "top_k": 9, "seed": 5}
    text = trainer.generate(
        trained,
        prompt="the miller",
        checkpoint="3",
        device="cpu",
        **how,  # type: ignore[arg-type]
    )
    assert text == trained_model.generate("the miller", **how)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sampling: top_p 2"):
        trainer.generate(trained, top_p=2)


@pytest.mark.parametrize("dynamic", ["sgd", "rms"])
def test_a_text_is_read_as_was_tuned_for_this_checkpoint(
    run: Path, dynamic: Literal["sgd", "rms"]
) -> None:
    how: Any = {"prompt": "the miller", "n_tokens": 8, "cache": 9, "dynamic": dynamic}
    how |= {"checkpoint": "3", "device": "cpu"}
    with pytest.raises(InputError, match=r"no settings for --cache 9 --dynamic \w+ were tuned"):
        trainer.generate(run, **how)
    (result,) = trainer.evaluate(
        run, split="train", checkpoint="3", cache=9, dynamic=dynamic, device="cpu"
    )
    assert result.method is not None
    tuned = {
        f"{part}_{name}": getattr(getattr(result.method, part), name)
        for part, names in (("cache", ("weight", "flatness")), ("dynamic", ("rate", "decay")))
        for name in names
    }
    trained_model = open_trained(
        run, which="3", precision=None, device=CPU, second_moments=dynamic == "rms"
    )
    told: Any = {"n_tokens": 8, "temperature": 0.8, "cache": 9, "dynamic": dynamic, **tuned}
    assert trainer.generate(run, **how) == trained_model.generate("the miller", **told)


def test_how_recurrent_layers_multiply_is_put_back() -> None:
    before = torch.backends.cudnn.allow_tf32
    with restoring({}):
        torch.backends.cudnn.allow_tf32 = not before
    assert torch.backends.cudnn.allow_tf32 is before


def test_they_leave_the_process_as_it_was(run: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), torch.get_float32_matmul_precision()
    trainer.evaluate(run, split="valid", device="cpu")
    trainer.generate(run, n_tokens=3, device="cpu")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_float32_matmul_precision() == before[1]
