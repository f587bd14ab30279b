"""Settings of the network: its kind, the sizes of Transformer-XL, and the options of others."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import GetCoreSchemaHandler, ValidationInfo, field_validator, model_validator
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from trainer.config.fields import Section, announced, free, refused
from trainer.config.kinds import FACTORIES, Kind

#: The largest size in a network: the product of three such sizes is still a possible byte count.
MAX_SIZE = 1_000_000


class _OrNull:
    """The mark of a field that is null where a factory's recipe leaves it out."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.nullable_schema(handler(source))


#: A size that Transformer-XL always has. A factory's recipe may leave it out, then it is None: who
#: reads it there is the factory alone.
Size: TypeAlias = Annotated[int, _OrNull]


def _demanded(meaning: str, *, ge: int = 1) -> Any:
    """Make the field of a `Size`, which must be given unless there is a factory."""
    return refused(None, meaning, ge=ge, le=MAX_SIZE, validate_default=True)


class ModelConfig(Section):
    """Sizes of the network (Dai et al. 2019, section 3 and appendix)."""

    kind: Kind = refused(
        "transformer-xl",
        "a model of the package; the sizes of all but transformer-xl are options of their own, "
        "--model.options.NAME, and those here are not read",
    )
    factory: str | None = refused(
        None,
        "another model of the same Protocol, 'package:build'; None is the kind; what its "
        "function takes as options are flags, too: --model.options.NAME",
    )
    options: dict[str, Any] = refused({}, "the options of the factory, or of the kind")
    n_layer: Size = _demanded("layers")
    d_model: Size = _demanded("width of the residual stream; even", ge=2)
    n_head: Size = _demanded("attention heads")
    d_head: Size = _demanded("width of one attention head")
    d_inner: Size = _demanded("hidden width of the feed-forward layer")
    d_embed: int | None = refused(
        None, "width of the first cluster's embedding; None is d_model", ge=1, le=MAX_SIZE
    )
    cutoffs: tuple[int, ...] = refused(
        (),
        "first word ids of the adaptive softmax's tail clusters; empty is a full softmax",
        max_length=64,
    )
    div_val: int = refused(
        1, "each cluster's embedding is this many times narrower", ge=1, le=MAX_SIZE
    )
    tie_embedding: bool = refused(True, "the softmax reads the embedding's weights")
    tie_projections: Literal["none", "tails", "all"] = refused(
        "tails", "which cluster projections the softmax shares with the embedding"
    )
    norm: Literal["post", "pre"] = refused("post", "LayerNorm after or before each sublayer")
    position_biases: Literal["shared", "per_layer"] = refused(
        "shared", "whether all layers share the content and position biases u and v"
    )
    token_tables: int = refused(
        0,
        "so many layers, from the second on, read beside the residual stream a vector of each "
        "token, from a table of their own",
        ge=0,
        le=MAX_SIZE,
    )
    pair_rows: int = refused(
        0,
        "rows of a table of vectors for pairs of a token and the one before it, which are hashed "
        "to them and added to the embedding; 0 is none",
        ge=0,
        le=2**40,
    )
    dropout: float = announced(0.1, "dropout probability", ge=0, lt=1)
    attn_dropout: float = announced(0.0, "dropout probability of attention weights", ge=0, lt=1)
    init_std: float = refused(0.02, "standard deviation of initial weights", gt=0)
    projection_init_std: float = refused(
        0.01, "standard deviation of initial cluster projections", gt=0
    )
    kernels: Literal["auto", "plain"] = free(
        "auto", "auto takes what is fastest on the device; plain is PyTorch's own operations"
    )
    activation_checkpointing: bool = free(
        False, "recompute each layer in the backward pass instead of keeping it"
    )

    @field_validator("n_layer", "d_model", "n_head", "d_head", "d_inner")
    @classmethod
    def _given_for_ours(cls, size: int | None, info: ValidationInfo) -> int | None:
        if size is None and _builder(info.data) is None:
            raise PydanticKnownError("missing")
        return size

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.d_model and self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} is odd: sine and cosine share it in halves")
        if list(self.cutoffs) != sorted(set(self.cutoffs)) or min(self.cutoffs, default=1) < 1:
            raise ValueError(f"cutoffs {self.cutoffs} do not ascend from at least 1")
        widest = self.d_embed or self.d_model
        if widest and widest < self.div_val ** len(self.cutoffs):
            raise ValueError(
                f"div_val {self.div_val} leaves the embedding's last of {len(self.cutoffs) + 1} "
                f"clusters no width: lower --model.div-val or give fewer --model.cutoffs"
            )
        if self.n_layer and self.token_tables >= self.n_layer:
            raise ValueError(
                f"token_tables {self.token_tables}: the {self.n_layer} layers but the first can "
                f"have one each; give at most {self.n_layer - 1}"
            )
        if self.builder is not None and (self.token_tables or self.pair_rows):
            raise ValueError(
                f"token_tables and pair_rows are Transformer-XL's own, and the model is "
                f"{self.factory or self.kind}: leave them out"
            )
        if self.factory is not None and self.factory.count(":") != 1:
            raise ValueError(f"factory {self.factory!r} is not of the form 'package:build'")
        if self.factory is not None and self.kind in FACTORIES:
            raise ValueError(f"kind {self.kind} and factory {self.factory!r}: give one of them")
        if self.options and self.builder is None:
            raise ValueError(
                f"options {', '.join(self.options)} are a factory's, and there is no factory: name "
                "one with --model.factory, or a --model.kind, or leave them out"
            )
        return self

    @property
    def builder(self) -> str | None:
        """The factory that builds the model, of the package or another's; None is Transformer-XL.

        Only `factory` names code that is not the package's own.
        """
        return _builder(dict(self))


def _builder(values: Mapping[str, Any]) -> str | None:
    """Return the factory that the fields `factory` and `kind` name, of those that are there."""
    factory: str | None = values.get("factory")
    return factory or FACTORIES.get(values.get("kind", ""))
