"""The commands of ``txl`` that import and export models.

Heavy imports wait until a command runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from trainer.commands.standard_streams import say
from trainer.errors import InputError

if TYPE_CHECKING:
    from trainer.exchange.hub import Destination


@dataclass(frozen=True)
class Import:
    """Bring in a checkpoint of Hugging Face, kimiyoung, NVIDIA or fairseq."""

    checkpoint: tyro.conf.Positional[Path]
    """its file, or the folder it lies in"""
    out: Path
    """run directory to make"""
    vocab: Path | None = None
    """vocab.pkl, vocab.txt, cache.pt, dict.txt, or a corpus of ours, if not beside it"""
    recipe: str | None = None
    """says what the checkpoint does not; None is the one of the same sizes"""

    def run(self) -> None:
        """Import, and say what was found and what to do next."""
        from trainer.exchange.importing import import_checkpoint

        imported = import_checkpoint(
            self.checkpoint, out=self.out, vocab=self.vocab, recipe=self.recipe
        )
        say(*imported.lines())


@dataclass(frozen=True)
class Export:
    """Write a trained model for use elsewhere: weights, configuration, vocabulary, model card."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run"""
    out: Path
    """folder to make"""
    checkpoint: str = "best"
    """best, last, a step, or a path"""
    as_: Annotated[Literal["txl", "huggingface", "transformers"], tyro.conf.arg(name="as")] = "txl"
    """for trainer.load; for transformers 4.35 (huggingface) or from 5.3 on (transformers)"""
    push_to_hub: str | None = None
    """also push the folder to this repository of the Hugging Face Hub: NAME or USER/NAME"""
    public: bool = False
    """let everybody see a repository that --push-to-hub makes"""

    def run(self) -> None:
        """Export, push if asked to, and say where to."""
        from trainer.exchange.exporting import export

        destination = self._destination()
        export(self.run_dir, out=self.out, which=self.checkpoint, form=self.as_)
        say(f"{self.out}: see its README.md")
        if destination is not None:
            say(f"{destination.push(self.out)}: pushed")

    def _destination(self) -> "Destination | None":
        """Return where to push to, before time is spent on an export."""
        if self.push_to_hub is None:
            if self.public:
                raise InputError(
                    "--public is for --push-to-hub NAME: add it, or leave --public out"
                )
            return None
        from trainer.exchange.hub import Destination

        return Destination.of(self.push_to_hub, is_private=not self.public)


@dataclass(frozen=True)
class LmEval:
    """Run lm-eval's own command, in which --model txl --model_args run=RUN is a trained model."""

    words: tyro.conf.Positional[tuple[str, ...]]
    """the words of lm_eval, which `txl lm-eval --help` tells"""

    def run(self) -> None:
        """Do what lm_eval does."""
        from trainer.exchange.for_lm_eval.command import run_lm_eval

        run_lm_eval(self.words)
