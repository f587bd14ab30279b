"""The published recipes are those of the one script or file that their `source` names."""

import pytest

from trainer.config.kinds import FACTORIES
from trainer.config.recipe import load_recipe, recipe_names

# n_layer, d_model, n_head, d_head, d_inner, dropout, attn_dropout, tgt_len = mem_len, batch,
# warm-up, steps; then evaluation tgt_len, mem_len, clamp_len
PUBLISHED = {
    "wt103-base": (16, 410, 10, 41, 2100, 0.1, 0.0, 150, 60, 0, 200_000, 64, 640, 400),
    "wt103-large": (18, 1024, 16, 64, 4096, 0.2, 0.2, 384, 128, 16_000, 4_000_000, 128, 1600, 1000),
    "wt103-nvidia-base": (16, 512, 8, 64, 2048, 0.1, 0.0, 192, 256, 1000, 40_000, 64, 641, 400),
    "wt103-nvidia-large": (
        18, 1024, 16, 64, 4096, 0.2, 0.2, 384, 128, 16_000, 100_000, 128, 1601, 1000,
    ),
    "wt103-nvidia-large-multinode": (
        18, 1024, 16, 64, 4096, 0.2, 0.2, 384, 512, 16_000, 25_000, 128, 1601, 1000,
    ),
    "enwik8-base": (12, 512, 8, 64, 2048, 0.1, 0.0, 512, 22, 0, 400_000, 80, 2100, 820),
    "enwik8-large": (24, 1024, 8, 128, 3072, 0.15, 0.15, 768, 64, 4000, 400_000, 128, 3800, 1000),
    "text8-base": (12, 512, 8, 64, 2048, 0.1, 0.0, 512, 22, 0, 400_000, 80, 2100, 820),
    "text8-large": (24, 1024, 8, 128, 3072, 0.15, 0.15, 768, 64, 0, 400_000, 128, 3800, 1000),
}  # fmt: skip
# lr, min_lr; validation every so many steps, at tgt_len, mem_len, batch
NVIDIA = {
    "wt103-nvidia-base": (0.01, 1e-3, 5000, 192, 192, 16),
    "wt103-nvidia-large": (0.01, 1e-4, 5000, 128, 384 + 384 - 128, 16),
    "wt103-nvidia-large-multinode": (0.02, 1e-4, 1000, 128, 384 + 384 - 128, 128),
}
#: kimiyoung's --eval_tgt_len.
EVAL_TGT_LEN = {"wt103-base": 150, "quickstart": 32}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_figures(name: str) -> None:
    recipe = load_recipe(name)
    model, train, optim, score = recipe.model, recipe.train, recipe.optim, recipe.eval
    assert train.tgt_len == train.mem_len
    assert PUBLISHED[name] == (
        model.n_layer, model.d_model, model.n_head, model.d_head, model.d_inner, model.dropout,
        model.attn_dropout, train.mem_len, train.train_batch_size, optim.warmup_steps,
        train.max_steps, score.tgt_len, score.mem_len, score.clamp_len,
    )  # fmt: skip
    assert score.same_length
    assert not train.same_length
    assert train.clamp_len is None
    assert (optim.weight_decay, optim.gradient_clipping, optim.betas) == (0.0, 0.25, (0.9, 0.999))
    if name not in NVIDIA:
        assert (optim.lr, optim.min_lr, optim.type, optim.eps) == (2.5e-4, 0.0, "Adam", 1e-8)
        assert recipe.data.epoch_order == "same"
    assert (model.norm, model.position_biases, model.tie_embedding) == ("post", "shared", True)
    words = name.startswith("wt103")
    cutoffs = (19_997, 39_997, 199_997) if name in NVIDIA else (20_000, 40_000, 200_000)
    assert model.cutoffs == (cutoffs if words else ())
    is_large = words and "large" in name
    assert model.div_val == (4 if is_large else 1)
    assert model.init_std == (0.005 if is_large and name in NVIDIA else 0.02)
    assert model.projection_init_std == 0.01


@pytest.mark.parametrize("name", NVIDIA)
def test_nvidia_s_recipes_have_their_optimizer_order_and_validation(name: str) -> None:
    recipe = load_recipe(name)
    optim, valid = recipe.optim, recipe.valid
    assert NVIDIA[name] == (
        optim.lr, optim.min_lr, valid.interval_steps, valid.tgt_len, valid.mem_len,
        valid.batch_size,
    )  # fmt: skip
    assert (optim.type, optim.eps) == ("Lamb", 1e-6)
    assert recipe.data.epoch_order == "roll_streams"
    assert (optim.warmup_init_lr, optim.cosine_from) == (0.0, "warmup")
    assert (recipe.seed, valid.clamp_len, valid.same_length) == (1111, None, False)


@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() - NVIDIA.keys()))
def test_kimiyoung_s_recipes_validate_and_decay_as_theirs_do(name: str) -> None:
    """kimiyoung's validation remembers mem_len + tgt_len - eval_tgt_len tokens."""
    recipe = load_recipe(name)
    train, valid = recipe.train, recipe.valid
    tgt_len = EVAL_TGT_LEN.get(name, 128)
    assert (valid.tgt_len, valid.mem_len) == (tgt_len, train.mem_len + train.tgt_len - tgt_len)
    assert (valid.batch_size, valid.clamp_len, valid.same_length) == (10, None, False)
    has_warm_up = recipe.optim.warmup_steps > 0
    assert recipe.optim.cosine_from == ("start" if has_warm_up else "warmup")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_names_its_one_source(name: str) -> None:
    source = load_recipe(name).source
    assert source is not None
    assert source.startswith("NVIDIA/" if name in NVIDIA else "kimiyoung/transformer-xl, pytorch/")


def test_every_packaged_recipe_is_published_or_ours() -> None:
    ours = {"quickstart", *(f"quickstart-{kind}" for kind in FACTORIES)}
    ours |= {"quickstart-modern", "wt103-modern"}
    assert PUBLISHED.keys() | ours == set(recipe_names())
