"""Settings of a scoring: those of the recipe, changed by what was asked for."""

from typing import Any

from pydantic import ValidationError

from trainer.config import strict
from trainer.config.recipe import ExperimentConfig, ScoringConfig
from trainer.errors import InputError


def scoring_of(experiment: ExperimentConfig, **asked: Any) -> ScoringConfig:
    """Return the recipe's settings of evaluations; a field of `asked` counts unless it is None.

    Raises:
        InputError: a value is out of range.
    """
    values = experiment.eval.model_dump()
    values |= {key: value for key, value in asked.items() if value is not None}
    if values["mem_len"] == 0 and values["same_length"]:
        values["same_length"] = False  # without memory no query would see a key
    try:
        return ScoringConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(strict.describe(error, ScoringConfig))
        raise InputError(f"evaluation settings: {problems}") from None


def cuts_documents(experiment: ExperimentConfig, *, as_fairseq: bool) -> bool:
    """Return whether an evaluation ends memory at a document's start, as the training did."""
    return experiment.data.memory_reset == "document" and not as_fairseq


def situation(scoring: ScoringConfig, *, vocabulary_size: int) -> str:
    """Return the sizes of a scoring that ran out of memory, and which of them to lower."""
    return (
        f"reading {scoring.batch_size} rows with tgt_len {scoring.tgt_len}, mem_len "
        f"{scoring.mem_len} and a vocabulary of {vocabulary_size:,}: lower --batch-size, "
        "--tgt-len or --mem-len"
    )
