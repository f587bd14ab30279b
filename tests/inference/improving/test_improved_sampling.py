"""Sampling with a cache or a learnt prompt equals reading all of the text again, token by token."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, lone_world, scoring, tiny_model
from family_models import TOY, toy
from improving_naively import moments_of, naive_log_probs
from txl_command import said_in

from trainer.errors import Exit, InputError
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run
from trainer.inference.generate import following_ids
from trainer.inference.improving.dynamic import EPSILON
from trainer.inference.improving.predicting import ImprovingPredictor
from trainer.inference.loading import open_trained
from trainer.inference.sampling_options import Sampling
from trainer.track.method import Cache, Dynamic, Method

V = 20
CUTOFFS = (6, 12)
PROMPT = [3, 17, 4, 4, 9, 11, 2, 19, 3, 17, 8]
CACHE = Cache(states=7, weight=0.6, flatness=0.3)
METHODS = {
    "cache": Method(cache=CACHE),
    "sgd": Method(dynamic=Dynamic(rule="sgd", rate=0.05, decay=0.1)),
    "rms": Method(dynamic=Dynamic(rule="rms", rate=3e-5, decay=0.1)),
    "both": Method(cache=CACHE, dynamic=Dynamic(rule="sgd", rate=0.05, decay=0.1)),
}


def predictor(
    model: Any, method: Method, at: Any, cutoffs: tuple[int, ...] = CUTOFFS
) -> ImprovingPredictor:
    return ImprovingPredictor(
        model,
        method,
        scoring=at,
        cutoffs=cutoffs,
        dtype=torch.float64,
        device=CPU,
        second_moments=moments_of(model),
    )


def check(model: Any, method: Method, *, cutoffs: tuple[int, ...], same_length: bool) -> None:
    """Check each prediction of ten likeliest tokens against one computed from the text alone."""
    at = scoring(tgt_len=4, mem_len=6 if same_length else 60, same_length=same_length)
    found = predictor(model, method, at, cutoffs)
    text = list(PROMPT)
    found.take_in(text)
    for _ in range(10):
        log_probs = found.log_probs_after(text[-1]).of_all()[0]
        expected = naive_log_probs(
            model,
            text,
            method,
            at,
            n_prompt=len(PROMPT),
            cutoffs=cutoffs,
            epsilon=EPSILON,
            second_moments=moments_of(model),
        )
        torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-9)
        assert float(log_probs.exp().sum()) == pytest.approx(1)
        text.append(int(log_probs.argmax()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("same_length", [True, False])
def test_each_prediction_is_that_of_the_text_alone(method: str, same_length: bool) -> None:
    model = tiny_model(V, cutoffs=CUTOFFS).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check(model, METHODS[method], cutoffs=CUTOFFS, same_length=same_length)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("kind", [kind for kind in TOY if kind != "rmt"])
def test_every_family_samples_with_a_cache(kind: str) -> None:
    check(toy(kind).eval(), METHODS["cache"], cutoffs=(), same_length=False)


def test_memory_tokens_are_read_twice_where_hidden_states_do_not_tell_the_words() -> None:
    pytest.importorskip("transformers")
    model = toy("rmt").eval()
    assert not hasattr(model, "words_after")
    at = scoring(tgt_len=4)
    found = predictor(model, METHODS["cache"], at, ())
    found.take_in(PROMPT)
    log_probs = found.log_probs_after(PROMPT[-1]).of_all()[0]
    assert float(log_probs.exp().sum()) == pytest.approx(1)
    seen = {*PROMPT[-CACHE.states :]}
    assert all(float(log_probs[word]) > -math.inf for word in seen)


def test_draws_follow_the_predictions() -> None:
    model = tiny_model(V, cutoffs=CUTOFFS).eval()
    at, sampling = scoring(same_length=True), Sampling(n_tokens=9, temperature=0.0)
    how: dict[str, Any] = {"cutoffs": CUTOFFS, "dtype": torch.float64, "device": CPU}
    drawn = list(
        following_ids(
            model,
            PROMPT,
            sampling=sampling,
            scoring=at,
            predictor=predictor(model, METHODS["cache"], at),
            **how,
        )
    )
    other, text = predictor(model, METHODS["cache"], at), list(PROMPT)
    other.take_in(text)
    for _ in range(9):
        text.append(int(other.log_probs_after(text[-1]).of_all()[0].argmax()))
    assert drawn == text[len(PROMPT) :]
    assert drawn != list(following_ids(model, PROMPT, sampling=sampling, scoring=at, **how))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained run, to file results in."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_the_command_takes_the_settings_that_an_evaluation_has_tuned(
    run: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ["generate", run, "--prompt", "the miller", "--device", "cpu", "--n-tokens", "8"]
    asked = [*how, "--cache", "20", "--dynamic", "rms"]
    refused = said_in("utf-8", monkeypatch, *asked)
    assert refused.code == Exit.BAD_INPUT
    assert "no settings for --cache 20 --dynamic rms were tuned" in refused.err
    options = EvalOptions(
        run_dir=run, data=corpus, split="train", cache=20, dynamic="rms", tune_tokens=200
    )
    (result,) = evaluate_run(options, lone_world())
    done = said_in("utf-8", monkeypatch, *asked)
    assert done.code == Exit.DONE, done.err
    method = result.method
    assert method is not None
    assert method.cache is not None
    assert method.dynamic is not None
    given = [
        *("--cache-weight", method.cache.weight, "--cache-flatness", method.cache.flatness),
        *("--dynamic-rate", method.dynamic.rate, "--dynamic-decay", method.dynamic.decay),
    ]
    assert said_in("utf-8", monkeypatch, *asked, *given).out == done.out
    assert done.out.startswith("the miller")
    other = said_in("utf-8", monkeypatch, *how, "--cache", "20")
    assert other.code == Exit.BAD_INPUT  # tuned for both together, not for a cache alone


def test_a_loaded_model_says_what_it_lacks(run: Path) -> None:
    model = open_trained(run, which="last", precision=None, device=CPU)
    with pytest.raises(InputError, match="give the settings"):
        model.generate("the miller", cache=5)
    rms: dict[str, Any] = {"dynamic": "rms", "dynamic_rate": 1e-5, "dynamic_decay": 0.0}
    with pytest.raises(InputError, match="use --dynamic sgd"):
        model.generate("the miller", n_tokens=3, **rms)
    cache: dict[str, Any] = {"cache": 5, "cache_weight": 0.5, "cache_flatness": 1.0}
    assert model.generate("the miller", n_tokens=5, **cache)
