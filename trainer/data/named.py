"""The corpus that a run's directory names in `corpus.json`."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.strict import checked
from trainer.errors import InputError
from trainer.outside import read_json

CORPUS_FILE = "corpus.json"


class NamedCorpus(BaseModel):
    """A corpus as a run's directory describes it: its place and its hashes."""

    model_config = ConfigDict(frozen=True, strict=True)

    path: Annotated[str, Field(min_length=1, max_length=4096, pattern="^[^\0]+$")]
    hash: Annotated[str, Field(max_length=64)] | None = None

    @property
    def name(self) -> str:
        """Return the name of the corpus's folder."""
        return Path(self.path).name


def named_corpus(run_dir: Path) -> NamedCorpus:
    """Return the corpus that a run names.

    Raises:
        InputError: the run names no corpus.
    """
    file = run_dir / CORPUS_FILE
    try:
        return checked(NamedCorpus, read_json(file), where=str(file), fix="give one with --data")
    except InputError as error:
        raise InputError(f"{file} names no corpus: give one with --data ({error})") from None
