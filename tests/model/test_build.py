"""What a model is made of before it has learnt anything, and where it comes from."""

import pytest
import torch
from builders import tiny_model_config

from trainer.config.recipe import ModelConfig, load_recipe
from trainer.errors import InputError
from trainer.model.build import build_model
from trainer.model.transformer_xl import TransformerXL

V = 20

# Counted for a word list of WikiText-103 and for the symbols of the other two texts.
PARAMETERS = {
    "wt103-base": (267_735, 151_107_538),
    "wt103-large": (267_735, 285_170_506),
    "wt103-nvidia-base": (267_735, 191_950_298),
    "wt103-nvidia-large": (267_735, 285_167_482),
    "enwik8-base": (204, 41.06e6),
    "enwik8-large": (204, 277.2e6),
    "text8-base": (27, 40.96e6),
    "text8-large": (27, 277.05e6),
}


@pytest.mark.parametrize("recipe", PARAMETERS)
def test_recipes_have_the_papers_number_of_parameters(recipe: str) -> None:
    vocabulary_size, expected = PARAMETERS[recipe]
    with torch.device("meta"):
        model = TransformerXL(load_recipe(recipe).model, vocabulary_size)
    n_parameters = sum(p.numel() for p in model.parameters())
    exactly = isinstance(expected, int)
    assert n_parameters == pytest.approx(expected, rel=0 if exactly else 2e-4, abs=0)


@pytest.mark.parametrize("recipe", ["wt103-nvidia-base", "wt103-nvidia-large"])
def test_the_numbers_of_nvidia_s_models_follow_from_their_sizes(recipe: str) -> None:
    size, vocabulary = load_recipe(recipe).model, PARAMETERS[recipe][0]
    d, inner, heads = size.d_model, size.d_inner, size.n_head * size.d_head
    attention = 5 * d * heads + 2 * d
    feed_forward = d * inner + inner + inner * d + d + 2 * d
    ends = (*size.cutoffs, vocabulary)
    words = [end - begin for begin, end in zip((0, *size.cutoffs), ends, strict=True)]
    widths = [d // size.div_val**c for c in range(len(words))]
    tables = sum(n * width for n, width in zip(words, widths, strict=True))
    projections = d * sum(widths) + d * d if size.div_val > 1 else 0  # the head's own is untied
    softmax = vocabulary + len(size.cutoffs) * (d + 1)
    layers = size.n_layer * (attention + feed_forward)
    assert PARAMETERS[recipe][1] == tables + projections + softmax + layers + 2 * heads


def test_initial_weights_are_the_papers() -> None:
    config = tiny_model_config(
        d_model=64,
        n_head=4,
        d_head=32,
        d_inner=256,
        cutoffs=(600, 1200),
        div_val=2,
        init_std=0.02,
        projection_init_std=0.01,
    )
    torch.manual_seed(0)
    model = TransformerXL(config, 2000).requires_grad_(False)
    for name, p in model.named_parameters():
        if "norm.weight" in name:
            mean, std = 1.0, 0.02
        elif "projections" in name:
            mean, std = 0.0, 0.01
        elif p.dim() == 1:
            mean, std = 0.0, 0.0
        else:
            mean, std = 0.0, 0.02
        n = p.numel()
        assert float(p.mean()) == pytest.approx(mean, abs=5 * std / n**0.5), name
        assert float(p.std()) == pytest.approx(std, rel=4 / (2 * n) ** 0.5), name


def test_all_ranks_build_the_same_weights_from_the_seed() -> None:
    config = tiny_model_config()
    weights = []
    for seed in (5, 5, 6):
        torch.rand(3)
        model = build_model(config, vocabulary_size=V, seed=seed)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_cutoffs_must_fit_the_vocabulary() -> None:
    with pytest.raises(InputError, match=r"cutoffs \[5, 20\] do not fit a vocabulary of 20"):
        build_model(tiny_model_config(cutoffs=(5, V)), vocabulary_size=V, seed=0)


@pytest.mark.parametrize("vocabulary_size", [6_000, 12_345, 30_000, 199_999, 200_000])
def test_cutoffs_that_do_not_fit_are_answered_with_some_that_do(vocabulary_size: int) -> None:
    config = load_recipe("wt103-base").model
    with pytest.raises(InputError) as refused:
        build_model(config, vocabulary_size=vocabulary_size, seed=0)
    _, flag, proposed = str(refused.value).partition("--model.cutoffs ")
    assert flag
    fitting = config.model_copy(update={"cutoffs": tuple(map(int, proposed.split()))})
    assert ModelConfig.model_validate(fitting.model_dump()).cutoffs  # they ascend from 1
    with torch.device("meta"):
        build_model(fitting, vocabulary_size=vocabulary_size, seed=0)


def test_a_small_vocabulary_is_offered_a_full_softmax() -> None:
    with pytest.raises(InputError, match="a full softmax"):
        build_model(load_recipe("wt103-base").model, vocabulary_size=204, seed=0)


class Other(TransformerXL):
    """Another class with the methods of the protocol."""


def build_linear(config: ModelConfig, vocabulary_size: int) -> torch.nn.Module:
    return torch.nn.Linear(config.d_model, vocabulary_size)


def test_another_model_comes_from_its_factory() -> None:
    config = tiny_model_config(factory=f"{__name__}:Other")
    assert isinstance(build_model(config, vocabulary_size=V, seed=0), Other)


def test_a_factory_of_something_else_is_told_what_it_lacks() -> None:
    config = tiny_model_config(factory=f"{__name__}:build_linear")
    with pytest.raises(InputError, match="Linear without empty_memory, predict"):
        build_model(config, vocabulary_size=V, seed=0)


@pytest.mark.parametrize(
    "factory",
    [
        "shutil:rmtree",
        "sys:exit",
        "math:pi",
        "os:path",
        "builtins:print",
        "builtins:object",
        "builtins:dict",
        ".relative:build",
        "a b:c",
        "json:",
        "os.path:join",
        "subprocess:run",
        "threading:Thread",
        "torch.nn:Linear",
        "torch:tensor",
        "builtins:\x1b[31m",
        "typing:Any",
        "\n:\n",
        f"{__name__}:raises_interrupt",
        "torch.nn:Identity",
    ],
)
def test_a_factory_that_builds_no_model_is_one_line(factory: str) -> None:
    with pytest.raises(InputError, match=r"model\.factory '") as refused:
        build_model(tiny_model_config(factory=factory), vocabulary_size=V, seed=0)
    assert str(refused.value).isprintable()


def raises_interrupt(*_: object) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("factory", ["no_such_package:build", f"{__name__}:no_such_name", ":build"])
def test_a_factory_that_cannot_be_imported_is_named(factory: str) -> None:
    with pytest.raises(InputError, match=rf"model\.factory '{factory}'"):
        build_model(tiny_model_config(factory=factory), vocabulary_size=V, seed=0)
