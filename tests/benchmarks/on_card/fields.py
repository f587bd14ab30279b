"""Who is measured against whom on a card: each field of implementations takes turns.

A field is as large as a card's memory lets all its processes be there at once. The run that is the
default on a GPU stands in each field of `wt103-base`, so that every other is held against it.
"""

from dataclasses import dataclass

from measured.variants import GPT_WORKER, OURS_WORKER, Variant


@dataclass(frozen=True, kw_only=True)
class Field:
    """Implementations that are measured in turns."""

    name: str
    config: str
    """A name of `measured.dims.CONFIGS`."""
    variants: tuple[Variant, ...]
    recipe: str = ""
    """Whose captured step `without_card/ledger.py` predicts, of as many streams; if any."""
    limit_s: float = 100


def ours(ds_config: str, how: str = "captured", **settings: str) -> Variant:
    """Return this trainer with a DeepSpeed file; `how` says what its name adds."""
    words = {"captured": "on", "not captured": "off"}
    told = {"cuda_graph": words[how.partition(",")[0]]} | settings
    return Variant(
        name=f"ours, {ds_config}, {how}", script=OURS_WORKER, ds_config=ds_config, **told
    )


DEFAULT = ours("zero0_bf16_autocast")
_HUGGING_FACE = "peers/huggingface_worker.py"
HUGGING_FACE = (
    Variant(name="Hugging Face, fp32", script=_HUGGING_FACE),
    Variant(name="Hugging Face, TF32 products", script=_HUGGING_FACE, matmul="high"),
    Variant(name="Hugging Face, bf16 autocast", script=_HUGGING_FACE, precision="bf16"),
)
GPT = tuple(
    Variant(name=f"GPT, {words}, bf16 autocast", script=GPT_WORKER, precision="bf16", softmax=kind)
    for kind, words in (("full", "full softmax"), ("adaptive", "our clusters"))
)
ON_A_CARD = (
    Field(
        name="ours",
        config="wt103-base-60",
        recipe="wt103-base",
        variants=(
            DEFAULT,
            ours("zero0_bf16_autocast", "not captured"),
            ours("zero1_bf16"),
            ours("zero1_bf16", "not captured"),
            ours("zero0_bf16_autocast", "captured, plain kernels", kernels="plain"),
        ),
        limit_s=140,
    ),
    Field(
        name="Hugging Face",
        config="wt103-base-60",
        recipe="wt103-base",
        variants=(DEFAULT, *HUGGING_FACE),
    ),
    Field(
        name="GPT",
        config="wt103-base-60",
        recipe="wt103-base",
        variants=(DEFAULT, *GPT),
        limit_s=90,
    ),
    Field(
        name="other precisions",
        config="wt103-base-60",
        variants=(
            ours("zero0_fp16_autocast"),
            ours("zero1_fp16"),
            ours("zero0_fp32"),
            ours("zero0_fp32", "captured, TF32 products", matmul="high"),
        ),
        limit_s=100,
    ),
    Field(name="large", config="wt103-large-32", variants=(DEFAULT,), limit_s=80),
)
#: The same at toy sizes, to test the script.
ON_A_CPU = (
    Field(
        name="ours",
        config="toy",
        variants=(ours("zero0_fp32"), ours("zero3_fp32")),
    ),
    Field(name="Hugging Face", config="toy", variants=HUGGING_FACE),
    Field(name="GPT", config="toy", variants=GPT),
)
