"""How far back a model says that it looks is how far rows read ahead of what they score."""

import pytest
import torch
from builders import CPU, lone_world, random_documents, scoring, tiny_model_config, write_split
from linear_attention_model import LinearAttention

from trainer.data.corpus import Split
from trainer.inference.score import ScorePlan, score
from trainer.protocol import reach_of

V = 20


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    documents = random_documents(60, vocabulary_size=V, n_documents=5, seed=1)
    return write_split(tmp_path_factory.mktemp("reach") / "corpus", documents, vocabulary_size=V)


@pytest.mark.parametrize(("reach", "expected"), [(None, 10_000 * 7 // 8 // 4), (0, 0), (5, 5)])
def test_rows_read_ahead_as_far_as_a_model_says_that_it_looks(
    reach: int | None, expected: int
) -> None:
    def asked(mem_len: int, tgt_len: int) -> int | None:
        assert (mem_len, tgt_len) == (6, 4)
        return reach

    def lead(warm: str) -> int:
        settings = scoring(tgt_len=4, mem_len=6, batch_size=8, warm=warm)
        return ScorePlan(n_pairs=10_000, scoring=settings, reach=asked, rank=0, world_size=1).lead

    assert lead("exact") == expected
    assert lead("near") == (0 if reach == 0 else 2)


class Endless(LinearAttention):
    """A model whose state forgets nothing at once."""

    def reach(self, mem_len: int, tgt_len: int) -> int | None:
        return None


@pytest.mark.parametrize("batch_size", [2, 3, 7])
def test_a_model_that_looks_back_without_end_has_the_nats_of_one_long_pass(
    split: Split, batch_size: int
) -> None:
    torch.manual_seed(0)
    model = Endless(tiny_model_config(), V).double().eval()

    def loss(n_rows: int) -> float:
        result = score(
            model,
            split,
            scoring=scoring(batch_size=n_rows),
            reach=reach_of(model, n_layer=2),
            world=lone_world(),
            first_memory=lambda rows, mem_len: model.empty_memory(
                rows, mem_len=mem_len, dtype=torch.float64, device=CPU
            ),
            cutoffs=(),
            cut_documents=False,
        )
        assert result is not None
        return result.loss

    assert loss(batch_size) == pytest.approx(loss(1), rel=1e-6)
