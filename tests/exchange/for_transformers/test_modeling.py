"""An export for transformers of today computes there what the model computes here."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from builders import CPU, empty, segment_of, tiny_experiment, tiny_model, words
from peer import ask_today
from torch import Tensor

from trainer.exchange.for_transformers.writing import write_for_transformers
from trainer.inference.trained import TrainedModel
from trainer.model.transformer_xl import TransformerXL

SIZE, N_IDS, CUT, N_TOKENS = 20, 23, 10, 12


class Case(NamedTuple):
    """A model, and the lengths with which it is read."""

    model: dict[str, Any]
    lengths: dict[str, Any]
    seed: int = 0
    """Of weights with which a greedy text does not soon repeat one word."""


CASES = {
    "one softmax": Case({}, {}),
    "div_val 1": Case({"cutoffs": (5, 9)}, {}),
    "div_val 2": Case({"cutoffs": (5, 9), "div_val": 2}, {}, seed=3),
    "div_val 4": Case({"cutoffs": (5, 9), "div_val": 4, "d_embed": 32}, {"clamp_len": 3}, seed=1),
    "same_length": Case({"norm": "pre"}, {"same_length": True}, seed=13),
    "clamp_len": Case({"position_biases": "per_layer"}, {"clamp_len": 5}),
    "untied": Case(
        {
            "cutoffs": (5, 9),
            "div_val": 2,
            "tie_embedding": False,
            "tie_projections": "none",
            "position_biases": "per_layer",
            "norm": "pre",
        },
        {"same_length": True, "clamp_len": 4},
        seed=1,
    ),
    "tables": Case({"token_tables": 1, "pair_rows": 13, "cutoffs": (4, 8)}, {}, seed=3),
    "narrow": Case(
        {"cutoffs": (5, 9), "d_embed": 6, "tie_projections": "all"}, {"mem_len": 0}, seed=10
    ),
}


PIPED = "div_val 2"


def model_of(case: str) -> TransformerXL:
    """Return a model in fp64 whose weights are exact in fp32, and which likes no line ends."""
    model = tiny_model(SIZE, seed=CASES[case].seed, **CASES[case].model)
    with torch.no_grad():
        model.softmax.biases[0][0] = -30
    return model.float().double().eval()


def trained_of(case: str) -> TrainedModel:
    model = model_of(case).float()
    lengths = {"tgt_len": 4, "mem_len": 5, **CASES[case].lengths}
    experiment = tiny_experiment(model=model.config.model_dump(), eval=lengths)
    return TrainedModel(
        module=model,
        experiment=experiment,
        vocabulary=words(SIZE),
        path=Path("unused"),
        saved={},
        weights_hash={},
        precision="fp32",
        device=CPU,
    )


def ids_of(case: str) -> list[int]:
    ids: list[int] = np.random.default_rng(len(case)).integers(2, SIZE, N_IDS).tolist()
    return ids


def prompt_of(case: str, n_ids: int = N_IDS) -> str:
    return " ".join(f"w{i}" for i in ids_of(case)[:n_ids])


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what transformers tells of every case, by the case and what was asked."""
    folder, tasks = tmp_path_factory.mktemp("transformers"), []
    for case in CASES:
        trained, out = trained_of(case), folder / case.replace(" ", "-")
        out.mkdir()
        weights = {name: p.detach() for name, p in trained.module.named_parameters()}
        write_for_transformers(out, trained, weights)
        common = {"folder": str(out), "ids": ids_of(case), "cut": CUT, "pad_id": SIZE}
        tasks.append({**common, "does": "read", "pads": 3})
        tasks.append({**common, "does": "go_on", "n_tokens": N_TOKENS})
    piped = {"does": "pipe", "prompt": prompt_of(PIPED), "n_tokens": N_TOKENS}
    tasks.append({"folder": str(folder / PIPED.replace(" ", "-")), **piped})
    told = ask_today(folder / "asked", tasks)
    cases = [*(case for case in CASES for _ in range(2)), PIPED]
    return {
        (case, task["does"]): answer for case, task, answer in zip(cases, tasks, told, strict=True)
    }


def nats_here(case: str, model: TransformerXL, ids: list[int], borders: list[int]) -> Tensor:
    """Return nats of all tokens but the first, of segments that end at these borders."""
    scoring = trained_of(case).experiment.eval
    memory, parts = empty(model, 1, scoring.mem_len), []
    targets = torch.tensor([ids[1:]])
    for low, high in pairwise([0, *borders]):
        segment = segment_of(
            torch.tensor([ids[low:high]]), targets[:, low:high], cutoffs=model.config.cutoffs
        )
        how: dict[str, Any] = {
            "clamp_len": scoring.clamp_len,
            "same_length": scoring.same_length,
        }
        log_probs, after = model.predict(segment, memory, **how)
        parts.append(-log_probs[0].gather(1, targets[0, low:high, None])[:, 0])
        memory = after
    return torch.cat(parts)


def segments(n_targets: int) -> list[int]:
    return [*range(4, n_targets, 4), n_targets]


@pytest.mark.parametrize("case", CASES)
def test_every_token_has_the_same_nats(answers: Any, case: str) -> None:
    told = answers[case, "read"]
    with torch.no_grad():
        here = nats_here(case, model_of(case), ids_of(case), segments(N_IDS - 1))
    assert told["nats"] == pytest.approx(here.tolist(), rel=1e-9)
    assert told["in parts"] == pytest.approx(here.tolist(), rel=1e-9)
    assert trained_of(case).nats(prompt_of(case)) == pytest.approx(told["nats"], rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_pads_change_nothing(answers: Any, case: str) -> None:
    told = answers[case, "read"]
    short, whole = told["padded"]
    assert short[3:] == pytest.approx(told["nats"][:-3], rel=1e-9)
    assert whole == pytest.approx(told["nats"], rel=1e-9)
    assert told["padded loss"] == pytest.approx(np.mean(told["nats"][:-3]), rel=1e-9)
    assert told["padded right"][0][:-3] == pytest.approx(told["nats"][:-3], rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_training(answers: Any, case: str) -> None:
    told, model = answers[case, "read"], model_of(case)
    loss = nats_here(case, model, ids_of(case), segments(N_IDS - 1)).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert told["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
    assert told["gradients"].keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        theirs = torch.tensor(told["gradients"][name], dtype=torch.float64)
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(theirs, ours, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_the_same_tokens_follow_a_prompt(answers: Any, case: str) -> None:
    told, trained = answers[case, "go_on"], trained_of(case)
    for asked, n_ids in (("greedy", N_IDS), ("short", CUT)):
        made = trained.generate(prompt_of(case, n_ids), n_tokens=N_TOKENS, temperature=0)
        assert told[asked] == trained.vocabulary.encode(made)
        assert len(set(told[asked])) > 2, "a text of one word proves little"
    assert told["beside"] == [told["short"], told["greedy"]]


@pytest.mark.parametrize("case", CASES)
def test_beams_score_as_they_read(answers: Any, case: str) -> None:
    told = answers[case, "go_on"]
    ids = [*ids_of(case), *told["beams"]]
    borders = [*segments(N_IDS - 1), *range(N_IDS, len(ids))]
    with torch.no_grad():
        nats = nats_here(case, model_of(case), ids, borders)[-N_TOKENS:]
    assert told["beams score"] == pytest.approx(-float(nats.sum()), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_it_is_saved_and_loaded_again(answers: Any, case: str) -> None:
    told = answers[case, "go_on"]
    assert told["same names and values"]
    assert told["greedy again"] == told["greedy"]


@pytest.mark.parametrize("case", CASES)
def test_a_new_model_begins_as_one_does_here(answers: Any, case: str) -> None:
    here = TransformerXL(model_of(case).config, SIZE)
    told = answers[case, "go_on"]["fresh"]
    zero = [name for name, p in here.named_parameters() if not p.any()]
    assert [name for name, ends in told.items() if ends == [0, 0]] == zero
    assert np.isfinite(list(told.values())).all()
    for name, p in here.named_parameters():
        if name not in zero and p.numel() > 1:
            assert -5 < told[name][0] < told[name][1] < 5, name


def test_a_pipeline_writes_the_same_text(answers: Any) -> None:
    here = trained_of(PIPED).generate(prompt_of(PIPED), n_tokens=N_TOKENS, temperature=0)
    assert answers[PIPED, "pipe"]["text"].strip() == here.strip()


def test_what_cannot_be_is_refused_in_a_line(answers: Any) -> None:
    hole, positions, uncached = answers["one softmax", "go_on"]["refusals"]
    assert "hides tokens inside a text" in hole
    assert "position_ids is not for a TxlForCausalLM" in positions
    assert "leave use_cache on" in uncached
