"""Gradients that are kept apart equal those that autograd adds up, and so does their use."""

from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from builders import empty, random_documents, segment_of, tiny_experiment, tiny_model, write_corpus
from ranks import told_by_ranks
from torch import Tensor, nn

from trainer import ds_config, engine, word_runs
from trainer.adam import Adam
from trainer.data.corpus import open_corpus
from trainer.data.read_ahead import SegmentReader
from trainer.data.streams import Streams
from trainer.distributed import World
from trainer.loop import TrainState, train_step
from trainer.model import tied_embedding
from trainer.model.build import build_model
from trainer.model.streamed_nll import streamed_nll
from trainer.run import Run
from trainer.table_gradients import TableGradient, TableGradients

N_WORDS, CUTOFFS = 60, (5, 20)
MODELS: dict[str, dict[str, Any]] = {
    "one table": {}, "clusters": {"cutoffs": CUTOFFS},
    "halved": {"cutoffs": CUTOFFS, "div_val": 2},
    "untied": {"cutoffs": CUTOFFS, "tie_embedding": False},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_several_pieces_and_of_at_most_eight_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_runs, "_PIECE_WORDS", 16)
    monkeypatch.setattr(tied_embedding, "_WORTH", 16)


def backward(model: nn.Module, *, n_tokens: int, n_passes: int) -> None:
    generator = torch.Generator().manual_seed(n_tokens)
    loss, memory = torch.zeros((), dtype=torch.float64), empty(cast(Any, model), 1, 4)
    for i in range(n_passes):
        # Another number of tokens in each pass: one pass may have few rows where another has many.
        tokens_BT = torch.randint(N_WORDS, (1, n_tokens * (1 + 4 * i)), generator=generator)
        output = model(segment_of(tokens_BT, cutoffs=model.config.cutoffs), memory)
        loss, memory = loss + output.loss_sum, output.memory
    loss.backward()


def whole(gradient: TableGradient) -> dict[Tensor, Tensor]:
    """By parameter, of a table and its biases."""
    pieces = [[grad.clone() for grad in grads] for _, *grads in gradient.pieces()]
    assert len(pieces) > 1 or len(gradient.parameters[0]) <= 16
    wholes = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return dict(zip(gradient.parameters, wholes, strict=True))


@pytest.mark.parametrize("n_passes", [1, 2])
@pytest.mark.parametrize("n_tokens", [1, 8, 40])
@pytest.mark.parametrize("kind", MODELS)
def test_parts_of_a_models_gradient_are_what_autograd_adds_up(
    kind: str, n_tokens: int, n_passes: int
) -> None:
    plain, model = (tiny_model(N_WORDS, **MODELS[kind]) for _ in range(2))
    model.table_gradients = apart = TableGradients()
    backward(plain, n_tokens=n_tokens, n_passes=n_passes)
    backward(model, n_tokens=n_tokens, n_passes=n_passes)
    squares = apart.squared_norms()
    kept_apart = [whole(gradient) for gradient in apart]
    found = {p: grad for of_one in kept_apart for p, grad in of_one.items()}
    wanted = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (parameter in found) == (parameter in apart)
        grad = found.get(parameter, parameter.grad)
        torch.testing.assert_close(grad, wanted[name].grad, msg=name)
    of_kept = [sum(g.square().sum() for g in of_one.values()) for of_one in kept_apart]
    torch.testing.assert_close(squares, of_kept)
    if kind == "one table":
        assert bool(kept_apart) == (n_tokens * (1 if n_passes == 1 else 5) <= 8)


def test_what_is_cleared_is_gone() -> None:
    model = tiny_model(N_WORDS)
    model.table_gradients = apart = TableGradients()
    backward(model, n_tokens=2, n_passes=1)
    assert model.embedding.tables[0] in apart
    apart.clear()
    assert model.embedding.tables[0] not in apart
    assert apart.squared_norms() == []


def kept(
    n_rows: int, *, n_words: int = 40, width: int = 8, autocast: bool = False
) -> tuple[TableGradient, list[Tensor]]:
    """Of one softmax, and its table's and biases' gradients as autograd makes them."""
    torch.manual_seed(n_rows)
    table_VC, bias_V = torch.randn(n_words, width), torch.randn(n_words)
    hidden_NC, targets_N = torch.randn(n_rows, width), torch.randint(n_words, (n_rows,))
    gradients = TableGradients()
    leaves = [x.requires_grad_() for x in (table_VC, bias_V)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        nll_N = streamed_nll(
            hidden_NC.requires_grad_(), targets_N, [(table_VC, bias_V)], apart=gradients
        )
    nll_N.sum().backward()
    (gradient,) = gradients
    plain = F.cross_entropy(F.linear(hidden_NC, *leaves), targets_N, reduction="sum")
    return gradient, list(torch.autograd.grad(plain, leaves))


@pytest.mark.parametrize("ids", [[], [3], [3, 3, 0, 39, 16, 15], list(range(40))])
def test_rows_join_the_words_that_they_are_of(ids: list[int]) -> None:
    gradient, (table_VC, bias_V) = kept(4)
    rows_NC, ids_N = torch.randn(len(ids), 8), torch.tensor(ids, dtype=torch.int64)
    gradient.add_rows(ids_N, rows_NC)
    wanted = [table_VC.index_add(0, ids_N, rows_NC), bias_V]
    torch.testing.assert_close(list(whole(gradient).values()), wanted)
    norm = sum(grad.square().sum() for grad in wanted)
    torch.testing.assert_close(gradient.squared_norm(), norm)


def test_the_norm_of_gradients_in_16_bits_is_in_32() -> None:
    gradient, exact = kept(20, n_words=3000, width=16, autocast=True)
    found = gradient.squared_norm()
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(sum(float(x.square().sum()) for x in exact), rel=1e-2)
    for of_parameter, wanted in zip(whole(gradient).values(), exact, strict=True):
        assert of_parameter.dtype == torch.float32
        torch.testing.assert_close(of_parameter, wanted, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("grad_scale", [None, torch.tensor(4.0)])
def test_adam_takes_the_parts_as_it_takes_the_gradient(
    decoupled: bool, grad_scale: Tensor | None
) -> None:
    models = [tiny_model(N_WORDS, cutoffs=CUTOFFS) for _ in range(2)]
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "fused": True}
    plain, adam = (
        Adam(m.parameters(), decoupled_weight_decay=decoupled, **settings) for m in models
    )
    for table_VC in models[1].parameters():
        zeros = {key: torch.zeros_like(table_VC) for key in ("exp_avg", "exp_avg_sq")}
        adam.state[table_VC] = {"step": torch.tensor(0.0), **zeros}
    models[1].table_gradients = adam.table_gradients = TableGradients()
    plain.grad_scale = adam.grad_scale = grad_scale
    for n_tokens in (3, 8, 5):
        for model, optimizer in zip(models, (plain, adam), strict=True):
            backward(model, n_tokens=n_tokens, n_passes=1)
            optimizer.step()
            optimizer.zero_grad()
        assert not list(adam.table_gradients)
    wanted = dict(models[0].named_parameters())
    for name, parameter in models[1].named_parameters():
        torch.testing.assert_close(parameter, wanted[name], msg=name)
        for key in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(adam.state[parameter][key], plain.state[wanted[name]][key])


#: Slots, and what a gradient is multiplied by.
CASES = {"whole step": (1, 1.0), "not finite": (1, float("nan")), "two slots": (2, 1.0)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """By number of ranks what the first one did in each case."""
    folder = tmp_path_factory.mktemp("engine")
    documents = random_documents(200, vocabulary_size=N_WORDS)
    write_corpus(folder / "corpus", vocabulary_size=N_WORDS, train=documents)
    return {n: told_by_ranks(train_with_all, folder, n_ranks=n)[0] for n in (1, 2)}


def train_with_all(world: World, folder: Path) -> dict[str, Any]:
    world = engine.connect(world, timeout_s=60)
    return {
        name: train(world, folder / "corpus", slots=slots, factor=factor)
        for name, (slots, factor) in CASES.items()
    }


def train(world: World, corpus: Path, *, slots: int, factor: float) -> dict[str, Any]:
    """One step; which tables' gradients were apart before the update, and what it did."""
    experiment = tiny_experiment(
        model={"cutoffs": CUTOFFS, "d_model": 32},
        train={"train_micro_batch_size_per_gpu": 4 // slots // world.world_size},
        optim={"lr": 0.1, "gradient_clipping": 0.5},
    )
    resolved = ds_config.resolve({}, experiment, world_size=world.world_size, where="test")
    model = build_model(experiment.model, vocabulary_size=N_WORDS, seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    built = engine.build(model, optim=experiment.optim, max_steps=9, resolved=resolved, world=world)
    streams = Streams(
        split=open_corpus(corpus).splits["train"], train_batch_size=4, tgt_len=4, slots=slots,
        rank=world.rank, world_size=world.world_size, cutoffs=CUTOFFS,
    )  # fmt: skip
    used = {
        "experiment": experiment, "streams": streams, "engine": built, "world": world,
        "reader": SegmentReader(streams, world.device, n_ahead=0),
    }  # fmt: skip
    apart: list[str] = []
    step = built.step
    module: Any = built.ds.module

    def spy() -> bool | None:
        if module.table_gradients is not None:
            apart.extend(n for n, p in model.named_parameters() if p in module.table_gradients)
        module.layers[0].attention.out.weight.grad.mul_(factor)
        return step()

    built.step = spy  # type: ignore[method-assign]
    train_step(cast(Any, Run)(**{f.name: used.get(f.name) for f in fields(Run)}), TrainState())
    apart_now = module.table_gradients or TableGradients()
    left = [n for n, p in model.named_parameters() if p in apart_now]
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    built.destroy()
    return {"apart": apart, "left": left, "moved": moved, "norm": float(built.grad_norm or 0)}


TABLES = {f"{name}.{c}" for name in ("embedding.tables", "softmax.biases") for c in range(3)}


def test_one_rank_and_slot_keep_them_apart_until_the_update(told: dict[int, Any]) -> None:
    found = told[1]["whole step"]
    assert set(found["apart"]) == TABLES
    assert found["left"] == []
    assert set(found["moved"]) > TABLES


def test_what_is_to_be_summed_is_not_kept_apart_and_is_the_same(told: dict[int, Any]) -> None:
    for found in (told[1]["two slots"], told[2]["whole step"], told[2]["two slots"]):
        assert found["apart"] == []
        assert set(found["moved"]) > TABLES
        assert found["norm"] == pytest.approx(told[1]["whole step"]["norm"], rel=1e-5)


def test_a_step_that_is_not_finite_forgets_them(told: dict[int, Any]) -> None:
    found = told[1]["not finite"]
    assert set(found["apart"]) == TABLES
    assert found["left"] == found["moved"] == []
