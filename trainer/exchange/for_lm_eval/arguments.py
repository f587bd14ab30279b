"""The words that lm-eval's ``--model_args`` may say of the model ``txl``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from trainer.config import strict
from trainer.config.precision import Precision
from trainer.errors import InputError
from trainer.shell import typed_path


def _rows(value: Any) -> Any:
    """Return None for lm-eval's ``auto``."""
    return None if isinstance(value, str) and value.startswith("auto") else value


class Arguments(BaseModel):
    """The model to evaluate and how it reads; lengths that are None are the recipe's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Annotated[Path, BeforeValidator(lambda value: typed_path(str(value)))] = Field(
        description="directory of a run, or an exported model"
    )
    checkpoint: Annotated[str, BeforeValidator(str)] = Field(
        "best", description="best, last, a step, or a path"
    )
    precision: Precision | None = Field(None, description="None is the run's")
    tgt_len: int | None = Field(None, description="tokens of a segment")
    mem_len: int | None = Field(None, description="tokens of memory")
    clamp_len: int | None = Field(None, description="distances beyond this share a position")
    same_length: bool | None = Field(None, description="every query sees exactly mem_len keys")
    prefix_token_id: int | None = Field(
        None, description="id before a text's first; None is the end of a document, or of a line"
    )
    trust_code: bool = Field(False, description="run the code that the run names as its model")
    batch_size: Annotated[int | None, BeforeValidator(_rows)] = Field(
        None, description="rows read side by side, lm-eval's --batch_size; None is the recipe's"
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="lm-eval's --device"
    )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Arguments":
        """Return the arguments that lm-eval hands over.

        Raises:
            InputError: one is unknown, missing or wrong.
        """
        values = {name: value for name, value in given.items() if value is not None}
        values.pop("max_batch_size", None)  # of lm-eval's search for the largest
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(strict.describe(error, cls))
            raise InputError(f"--model_args of the model txl: {problems}") from None

    def lengths(self) -> dict[str, Any]:
        """Return what `trainer.inference.settings.scoring_of` takes."""
        names = {"tgt_len", "mem_len", "clamp_len", "same_length", "batch_size"}
        return self.model_dump(include=names)
