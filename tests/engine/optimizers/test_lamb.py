"""LAMB is the paper's on whole matrices, whatever pieces of them ZeRO hands to the optimizer."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from builders import tiny_model
from cut_up import cut_up
from hypothesis import given
from hypothesis import strategies as st
from plain_loop import plain_loop
from torch import Tensor, nn
from training import Case, begun_from, checkpoint_hashes, events, losses, overflowing, run_cases

from trainer.checkpoint.contents.tensors import read_weights
from trainer.engine.full_state import Fragment
from trainer.engine.optimizers.lamb import Lamb, matrices

BETAS, EPS = (0.9, 0.999), 1e-6
STAGES = ("zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32")


class PaperLamb:
    """The formulas on whole matrices in fp64, each a list of the parameters that make it up."""

    def __init__(self, parts: list[list[nn.Parameter]], *, weight_decay: float) -> None:
        self.parts, self.weight_decay = parts, weight_decay
        self.param_groups = [{"lr": 0.0}]
        self.moments = [(0.0 * w, 0.0 * w) for w in map(whole, parts)]

    def step(self) -> None:
        lr, (b1, b2) = self.param_groups[0]["lr"], BETAS
        for i, parts in enumerate(self.parts):
            w, g = whole(parts), whole([p.grad for p in parts if p.grad is not None])
            m, v = self.moments[i]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            self.moments[i] = m, v
            u = m / (v.sqrt() + EPS) + self.weight_decay * w
            weight_norm, norm = min(float(w.norm()), 10.0), float(u.norm())
            trust = weight_norm / (norm + EPS) if weight_norm > 0 and norm > 0 else 1.0
            new = torch.split(w - lr * trust * u, [p.numel() for p in parts])
            for p, values in zip(parts, new, strict=True):
                p.data.copy_(values.view_as(p))


def whole(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in parts]).double()


def parts_of(model: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of every matrix of the authors' model with one width of embeddings."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        head, _, leaf = name.rpartition(".")
        named = head if head in ("embedding.tables", "softmax.biases") else name
        if head.endswith((".query", ".key_value")):
            named = f"{head.rpartition('.')[0]}.qkv.{leaf}"
        parts.setdefault(named, []).append(p)
    return list(parts.values())


def ours(model: nn.ParameterDict, *, weight_decay: float, lr: float) -> Lamb:
    """Return the optimizer, handed whole parameters."""
    made = Lamb(model.values(), lr=lr, betas=BETAS, eps=EPS, weight_decay=weight_decay)
    made.cut(
        {p: [Fragment(name, 0, p.numel())] for name, p in model.items()},
        matrices={name: name for name in model},
        sum_over_ranks=None,
    )
    return made


def random_model(dtype: torch.dtype) -> nn.ParameterDict:
    """Return a matrix larger than the clamp, small ones, one of zeros, a single number."""
    torch.manual_seed(0)
    tensors = {
        "large": torch.randn(20, 30),
        "small": 0.1 * torch.randn(5, 3),
        "zero": torch.zeros(4),
        "one": torch.ones(1),
        "still": torch.randn(3),
    }
    return nn.ParameterDict({k: nn.Parameter(t.to(dtype)) for k, t in tensors.items()})


def give_gradients(*models: nn.ParameterDict, seed: int) -> None:
    """Give the same gradients to all; those of ``still`` are zeros."""
    for model in models:
        torch.manual_seed(seed)
        for name, p in model.items():
            p.grad = torch.randn(p.shape, dtype=torch.float64).to(p.dtype) * (name != "still")


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_whole_parameters_are_updated_by_the_formulas(
    dtype: torch.dtype, rel: float, weight_decay: float
) -> None:
    model, copy = random_model(dtype), random_model(dtype)
    paper = PaperLamb([[p] for p in copy.values()], weight_decay=weight_decay)
    optimizer = ours(model, weight_decay=weight_decay, lr=0.0)
    for step in range(6):
        give_gradients(model, copy, seed=step)
        for made in (paper, optimizer):
            made.param_groups[0]["lr"] = 0.02 * (step + 1)
            made.step()
        for name, p in model.items():
            torch.testing.assert_close(p, copy[name], rtol=rel, atol=rel)


def test_zeros_are_trusted_like_adam_and_large_matrices_no_more_than_the_clamp() -> None:
    model, before = random_model(torch.float64), random_model(torch.float64).requires_grad_(False)
    give_gradients(model, seed=1)
    ours(model, weight_decay=0.0, lr=0.01).step()
    moved = {name: (p - before[name]).detach() for name, p in model.items()}
    grad = model["zero"].grad
    assert grad is not None
    step = 0.1 * grad / ((0.001 * grad**2).sqrt() + EPS)
    torch.testing.assert_close(moved["zero"], -0.01 * step)
    assert float(before["large"].norm()) > 10
    assert float(moved["large"].norm()) == pytest.approx(0.01 * 10, rel=1e-6)
    assert float(moved["small"].norm()) == pytest.approx(0.01 * float(before["small"].norm()))
    assert torch.equal(moved["still"], torch.zeros(3).double())


def test_a_parameter_without_a_gradient_is_passed_over() -> None:
    model, before = random_model(torch.float32), random_model(torch.float32)
    optimizer = ours(model, weight_decay=0.1, lr=0.01)
    give_gradients(model, seed=1)
    model["small"].grad = None
    optimizer.step()
    assert torch.equal(model["small"], before["small"])
    assert not torch.equal(model["large"], before["large"])
    assert model["small"] not in optimizer.state
    assert optimizer.state[model["large"]].keys() == {"step", "exp_avg", "exp_avg_sq"}


@given(
    numels=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 240), max_size=4),
    joined=st.booleans(),
)
def test_the_update_does_not_depend_on_how_matrices_are_cut(
    numels: list[int], cuts: list[int], joined: bool
) -> None:
    """One call with several flat tensors, between whose fragments there is what is no number."""
    torch.manual_seed(0)
    tensors = [torch.randn(n, dtype=torch.float64) for n in numels]
    names = [f"p{i}" for i in range(len(numels))]
    owners = {name: names[0] if joined else name for name in names}
    parameters = [nn.Parameter(t.clone()) for t in tensors]
    groups = [parameters] if joined else [[p] for p in parameters]
    paper = PaperLamb(groups, weight_decay=0.1)
    flats, fragments, places = cut_up(tensors, names, cuts)
    optimizer = Lamb(flats, lr=0.02, betas=BETAS, eps=EPS, weight_decay=0.1)
    optimizer.cut(fragments, matrices=owners, sum_over_ranks=None)
    for _ in range(3):
        grads = [torch.randn_like(t) for t in tensors]
        for flat in flats:
            flat.grad = torch.full_like(flat, torch.nan)
        for p, grad, pieces in zip(parameters, grads, places, strict=True):
            p.grad = grad
            for at, flat, start, numel in pieces:
                assert flat.grad is not None
                flat.grad[start : start + numel] = grad[at : at + numel]
        paper.param_groups[0]["lr"] = 0.02
        paper.step()
        optimizer.step()
    for p, pieces in zip(parameters, places, strict=True):
        found = torch.cat([flat[start : start + n] for _, flat, start, n in pieces])
        torch.testing.assert_close(found.detach(), p.detach(), rtol=1e-12, atol=1e-14)


def test_the_norm_of_a_large_matrix_is_exact() -> None:
    torch.manual_seed(0)
    model = nn.ParameterDict({"w": nn.Parameter(torch.full((20_000_000,), 1e-3))})
    before = model["w"].detach().clone()
    model["w"].grad = torch.ones_like(before)
    ours(model, weight_decay=0.0, lr=1.0).step()
    moved = (model["w"].detach() - before).double().norm()
    assert float(moved) == pytest.approx(float(before.double().norm()), rel=1e-5)


def test_parts_of_the_authors_matrices_are_joined() -> None:
    parts = {"layers.0.attention.query.weight", "layers.0.attention.key_value.weight"}
    tables = {"embedding.tables.0", "embedding.tables.1", "embedding.tables.2"}
    biases = {"softmax.biases.0", "softmax.biases.1", "softmax.biases.2"}
    one_width = tiny_model(cutoffs=(4, 9), n_layer=1)
    widths = tiny_model(cutoffs=(4, 9), n_layer=1, div_val=2)
    for model, expected in ((one_width, [parts, tables, biases]), (widths, [parts])):
        found: dict[str, set[str]] = {}
        for name, matrix in matrices(model).items():
            found.setdefault(matrix, set()).add(name)
        assert set().union(*found.values()) == {name for name, _ in model.named_parameters()}
        joined = [names for names in found.values() if len(names) > 1]
        assert sorted(joined, key=min) == sorted(expected, key=min)


# Under the engine

N_STEPS = 12
FLAGS = [
    "--optim.type",
    "Lamb",
    "--optim.eps",
    str(EPS),
    "--optim.lr",
    "0.02",
    "--optim.min-lr",
    "1e-3",
    "--optim.warmup-steps",
    "3",
    "--optim.gradient-clipping",
    "0.05",
    "--model.dropout",
    "0",
    "--model.div-val",
    "1",
    "--model.init-std",
    "0.1",
    "--train.max-steps",
    str(N_STEPS),
    "--train.train-micro-batch-size-per-gpu",
    "2",
]
KEEPING = ["--checkpoint.interval-steps", "6", "--checkpoint.keep-last", "9"]
DECAY = ["--optim.weight-decay", "0.1"]


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a run's directory by name: each stage on two ranks, and those begun with step 6."""
    folder = tmp_path_factory.mktemp("lamb")
    flags = [*FLAGS, *KEEPING]
    cases = {
        stage: Case(folder / stage, overflowing(stage, folder), [*flags, *DECAY])
        for stage in STAGES
    }
    cases["no decay"] = Case(folder / "no decay", "zero1_fp32", flags)
    dropout = [*flags, "--model.dropout", "0.2", "--train.max-steps", "16"]
    exact = {
        name: Case(folder / name, overflowing("zero2_fp16", folder), dropout)
        for name in ("whole", "resumed")
    }
    # First of its process, as the resumed one: stage 3 leaves another `linear` behind.
    run_cases([exact["whole"], *cases.values()], corpus=corpus, n_ranks=2)
    begun_from(exact["whole"].run_dir, 6, exact["resumed"].run_dir)
    elsewhere = {
        f"{stage} elsewhere": Case(folder / f"{stage} elsewhere", case.ds_config, case.flags)
        for stage, case in cases.items()
        if stage in STAGES
    }
    for case in elsewhere.values():
        begun_from(cases["zero3_fp32"].run_dir, 6, case.run_dir)
    run_cases([exact["resumed"]], corpus=corpus, n_ranks=2)
    run_cases(list(elsewhere.values()), corpus=corpus, n_ranks=1)
    return lambda name: folder / name


@pytest.mark.parametrize("name", [*STAGES, "no decay"])
def test_two_ranks_train_as_a_plain_loop_on_whole_matrices(
    runs: Callable[[str], Path], corpus: Path, name: str
) -> None:
    plain, weights = plain_loop(
        corpus,
        FLAGS,
        n_steps=N_STEPS,
        optimizer_of=lambda model: PaperLamb(
            parts_of(model), weight_decay=0.0 if name == "no decay" else 0.1
        ),
    )
    ends = list(itertools.accumulate(weight.numel() for weight in weights.values()))
    assert min(abs(end - ends[-1] // 2) for end in ends) > 100  # stages 1 and 2 cut a parameter
    found = losses(runs(name))
    assert list(found.values()) == pytest.approx(plain.loss, rel=2e-6)
    for key, weight in read_weights(runs(name) / "checkpoints" / f"step-{N_STEPS:08d}").items():
        torch.testing.assert_close(weight, weights[key], rtol=1e-4, atol=1e-6)


def test_lamb_resumes_bit_by_bit_past_overflows(runs: Callable[[str], Path]) -> None:
    whole_run, resumed = runs("whole"), runs("resumed")
    last = max(losses(whole_run))
    assert losses(resumed) == {step: x for step, x in losses(whole_run).items() if step > 6}
    assert checkpoint_hashes(resumed, last) == checkpoint_hashes(whole_run, last)
    skipped = [event["step"] for event in events(whole_run, "skip")]
    assert min(skipped) <= 6 < max(skipped)


@pytest.mark.parametrize("stage", STAGES)
def test_another_stage_and_number_of_ranks_continues_the_same_curve(
    runs: Callable[[str], Path], stage: str
) -> None:
    after = {step: x for step, x in losses(runs("zero3_fp32")).items() if step > 6}
    assert losses(runs(f"{stage} elsewhere")) == pytest.approx(after, rel=1e-5)
