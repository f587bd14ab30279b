"""Gradients that are kept apart equal those that autograd adds up, and so does their use."""

from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from builders import empty, random_documents, segment_of, tiny_experiment, tiny_model, write_corpus
from ranks import told_by_ranks
from torch import Tensor, nn

from trainer import ds_config, engine, table_gradients
from trainer.adam import Adam
from trainer.data.corpus import open_corpus
from trainer.data.read_ahead import SegmentReader
from trainer.data.streams import Streams
from trainer.distributed import World
from trainer.loop import TrainState, train_step
from trainer.model.build import build_model
from trainer.run import Run
from trainer.table_gradients import Factors, TableGradient, TableGradients

N_WORDS, CUTOFFS = 60, (5, 20)
MODELS: dict[str, dict[str, Any]] = {
    "one table": {}, "clusters": {"cutoffs": CUTOFFS},
    "halved": {"cutoffs": CUTOFFS, "div_val": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_gradients, "_PIECE", 16 * 8)


def backward(model: nn.Module, *, n_tokens: int, n_passes: int) -> None:
    generator = torch.Generator().manual_seed(n_tokens)
    loss, memory = torch.zeros((), dtype=torch.float64), empty(cast(Any, model), 1, 4)
    for i in range(n_passes):
        # Another number of tokens in each pass: one pass may have few rows where another has many.
        tokens_BT = torch.randint(N_WORDS, (1, n_tokens * (1 + 4 * i)), generator=generator)
        output = model(segment_of(tokens_BT, cutoffs=model.config.cutoffs), memory)
        loss, memory = loss + output.loss_sum, output.memory
    loss.backward()


def whole(gradients: TableGradients, table_VC: Tensor) -> Tensor:
    pieces = [grad_WC.clone() for _, grad_WC in gradients[table_VC].pieces()]
    assert len(pieces) > 1 or len(table_VC) <= 32
    return torch.cat(pieces)


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
    wanted = dict(plain.named_parameters())
    kept_apart = [p for p in model.parameters() if p in apart]
    for name, parameter in model.named_parameters():
        grad = whole(apart, parameter) if parameter in apart else parameter.grad
        torch.testing.assert_close(grad, wanted[name].grad, msg=name)
        assert (parameter.grad is None) == (parameter in apart)
    of_kept = [whole(apart, table_VC).square().sum() for table_VC in kept_apart]
    torch.testing.assert_close(squares, of_kept)
    if kind == "one table":
        assert bool(kept_apart) == (n_tokens * (1 if n_passes == 1 else 5) <= 10)


def test_what_is_cleared_is_gone() -> None:
    model = tiny_model(N_WORDS)
    model.table_gradients = apart = TableGradients()
    backward(model, n_tokens=2, n_passes=1)
    assert model.embedding.tables[0] in apart
    apart.clear()
    assert model.embedding.tables[0] not in apart
    assert apart.squared_norms() == []


@pytest.mark.parametrize("ids", [[], [3], [3, 3, 0, 39, 16, 15], list(range(40))])
def test_rows_join_the_words_that_they_are_of(ids: list[int]) -> None:
    table_VC = torch.zeros(40, 8)
    factors = Factors(torch.randn(4, 40), torch.randn(4, 8))
    gradient = TableGradient(table_VC)
    gradient.add_product(factors)
    rows_NC, ids_N = torch.randn(len(ids), 8), torch.tensor(ids, dtype=torch.int64)
    gradient.add_rows(ids_N, rows_NC)
    found_VC = torch.cat([grad_WC.clone() for _, grad_WC in gradient.pieces()])
    wanted_VC = (factors.error_NV.t() @ factors.scaled_NC).index_add(0, ids_N, rows_NC)
    torch.testing.assert_close(found_VC, wanted_VC)
    torch.testing.assert_close(gradient.squared_norm(), wanted_VC.square().sum())


def test_the_norm_of_a_product_in_16_bits_is_in_32() -> None:
    factors = Factors(torch.randn(20, 3000).bfloat16(), torch.randn(20, 16).bfloat16())
    exact = factors.error_NV.double().t() @ factors.scaled_NC.double()
    found = factors.squared_norm()
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(exact.square().sum()), rel=2e-3)


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
        assert models[1].embedding.tables[2] not in adam.table_gradients
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
        module.softmax.biases[0].grad.mul_(factor)
        return step()

    built.step = spy  # type: ignore[method-assign]
    train_step(cast(Any, Run)(**{f.name: used.get(f.name) for f in fields(Run)}), TrainState())
    apart_now = module.table_gradients or TableGradients()
    left = [n for n, p in model.named_parameters() if p in apart_now]
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    built.destroy()
    return {"apart": apart, "left": left, "moved": moved, "norm": float(built.grad_norm or 0)}


TABLES = [f"embedding.tables.{c}" for c in range(3)]


def test_one_rank_and_slot_keep_them_apart_until_the_update(told: dict[int, Any]) -> None:
    found = told[1]["whole step"]
    assert found["apart"] == TABLES
    assert found["left"] == []
    assert set(TABLES) < set(found["moved"])


def test_what_is_to_be_summed_is_not_kept_apart_and_is_the_same(told: dict[int, Any]) -> None:
    for found in (told[1]["two slots"], told[2]["whole step"], told[2]["two slots"]):
        assert found["apart"] == []
        assert set(TABLES) < set(found["moved"])
        assert found["norm"] == pytest.approx(told[1]["whole step"]["norm"], rel=1e-5)


def test_a_step_that_is_not_finite_forgets_them(told: dict[int, Any]) -> None:
    found = told[1]["not finite"]
    assert found["apart"] == TABLES
    assert found["left"] == found["moved"] == []
