"""A model's matrices are found by where they stand, and cut where they are several."""

import pytest
import torch
from builders import tiny_model
from family_models import toy
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.model import matrices as module
from trainer.model.matrices import Matrices, batches_of, matrices
from trainer.model.triton.storage import store_aligned

#: What is named by the layers of each kind, and the number of matrices in it.
BLOCKS = {
    "heads.query": 1,
    "heads.key": 1,
    "heads.value": 1,
    "out": 1,
    "feed_forward.inner": 2,
    "feed_forward.outer": 1,
}
TRANSFORMER_XL = {
    "attention.query": 1,
    "attention.key_value": 2,
    "attention.position": 1,
    "attention.out": 1,
    "feed_forward.inner": 1,
    "feed_forward.outer": 1,
}
KINDS: dict[str, dict[str, int]] = {
    "compressive": TRANSFORMER_XL | {"compressions.N": 1},
    "lstm": {"body.lstm.weight_ih_lN": 4, "body.lstm.weight_hh_lN": 4},
    "gla": BLOCKS | {"decay.0": 1, "decay.1": 1, "gate": 1},
    "mlstm": BLOCKS | {"gates": 1, "output_gate": 1},
    "rmt": {"attn.c_attn": 1, "attn.c_proj": 1, "mlp.c_fc": 1, "mlp.c_proj": 1},
}


def named(model: nn.Module) -> dict[str, int]:
    """Return the number of matrices by the end of each name, with N for a layer's number."""
    found: dict[str, set[int]] = {}
    for name, size in matrices(model).items():
        short = name.removesuffix(".weight").replace("_l0", "_lN").replace("_l1", "_lN")
        parts = ["N" if part in ("0", "1") else part for part in short.split(".")]
        found.setdefault(".".join(parts), set()).add(size.n_matrices)
    assert all(len(numbers) == 1 for numbers in found.values())
    return {name: min(numbers) for name, numbers in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_the_matrices_of_its_layers_and_no_other(kind: str) -> None:
    if kind == "rmt":
        pytest.importorskip("transformers")
    found, expected = named(toy(kind)), KINDS[kind]
    ends = {name.replace(".0", ".N").replace(".1", ".N"): n for name, n in expected.items()}
    assert len(found) == len(ends)
    for name, n in found.items():
        (end,) = (end for end in ends if f".{name}".endswith(f".{end}"))
        assert ends[end] == n


@pytest.mark.parametrize("cutoffs", [(), (4, 9)])
@pytest.mark.parametrize("tie", [True, False])
def test_words_clusters_and_biases_have_none(cutoffs: tuple[int, ...], tie: bool) -> None:
    for div_val in {1, len(cutoffs) or 1}:
        model = tiny_model(
            n_layer=2,
            cutoffs=cutoffs,
            div_val=div_val,
            tie_embedding=tie,
            token_tables=1,
            pair_rows=9,
        )
        layers = {
            f"layers.{i}.{name}.weight": n for i in range(2) for name, n in TRANSFORMER_XL.items()
        }
        assert {name: size.n_matrices for name, size in matrices(model).items()} == layers
        shapes = dict(model.named_parameters())
        for name, (n, n_rows, n_columns, longest) in matrices(model).items():
            assert (n * n_rows, n_columns) == tuple(shapes[name].shape)
            assert longest == max(n_rows, n_columns)


def test_pads_lengthen_rows_but_not_the_size_that_a_step_is_scaled_by() -> None:
    model = tiny_model(n_layer=1, d_model=10, n_head=2, d_head=3, d_inner=12)
    before = matrices(model)
    store_aligned(model)
    after, parameters = matrices(model), dict(model.named_parameters())
    assert {name: size.longest for name, size in after.items()} == {
        name: size.longest for name, size in before.items()
    }
    for name, (n, n_rows, n_columns, _) in after.items():
        assert (n * n_rows, n_columns) == tuple(parameters[name].shape)
    keys = "layers.0.attention.key_value.weight"
    assert before[keys] == Matrices(2, 6, 10, 10)
    assert after[keys] == Matrices(2, 16, 16, 10)


class Foreign(nn.Module):
    """A model of a factory, with parts that lie outside of its layers, or are no matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.before = nn.Linear(8, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12)
        self.layers = nn.ModuleList([layer, nn.Embedding(3, 8), nn.Conv1d(8, 8, 3)])
        self.tied, self.recurrent = nn.ModuleList([nn.Linear(8, 20, bias=False)]), nn.GRU(8, 6)
        self.tied[0].weight = self.words.weight
        self.table = nn.Parameter(torch.zeros(3, 3))
        self.softmax = nn.ModuleList([nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5])])


def test_a_foreign_model_s_matrices_are_the_weights_of_its_lists() -> None:
    found = {
        name: (n, rows, columns) for name, (n, rows, columns, _) in matrices(Foreign()).items()
    }
    assert found == {
        "layers.0.self_attn.in_proj_weight": (3, 8, 8),
        "layers.0.self_attn.out_proj.weight": (1, 8, 8),
        "layers.0.linear1.weight": (1, 12, 8),
        "layers.0.linear2.weight": (1, 8, 12),
        "recurrent.weight_ih_l0": (3, 6, 8),
        "recurrent.weight_hh_l0": (3, 6, 6),
    }


@given(
    sizes=st.lists(st.builds(Matrices, *[st.integers(1, 3)] * 3, st.just(3)), max_size=12),
    largest=st.integers(1, 60),
)
def test_batches_are_bounded_and_hold_each_parameter_once(
    sizes: list[Matrices], largest: int
) -> None:
    by_name = {str(i): size for i, size in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH", largest)
        batches = batches_of(by_name)
    placed = [name for batch in batches for name in batch.places]
    assert sorted(placed) == sorted(by_name)
    for batch in batches:
        assert batch.numel <= largest or len(batch.places) == 1
        at = 0
        for name, place in batch.places.items():
            assert place == at
            assert by_name[name][1:] == batch.size[1:]
            at += by_name[name].numel
        assert at == batch.numel
