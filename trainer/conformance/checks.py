"""The table of checks, and running them: each on a model of its own, in the order of the table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from trainer.config.factory import told
from trainer.config.recipe import ModelConfig
from trainer.conformance import predicting, reading, state
from trainer.conformance.subject import Finding, Subject
from trainer.errors import InputError

Find = Callable[[Subject], Iterator[Finding]]

#: What is checked in this process, by name: how, and why it matters.
CHECKS: dict[str, tuple[Find, str]] = {
    "state detached": (
        state.is_detached,
        "a graph that goes on from segment to segment fails in the second backward pass",
    ),
    "state not aliased": (
        state.lies_apart,
        "streams that are forgotten, or a captured step, would overwrite what somebody else reads",
    ),
    "no change in place": (
        state.keeps_what_it_is_given,
        "a step that is tried again, and a row that keeps its memory, would find another one",
    ),
    "streams first": (
        state.has_streams_first,
        "checkpoints and ranks cut memory by streams: rows would get parts of one another",
    ),
    "shape and dtype constant": (
        state.keeps_its_shape,
        "a checkpoint, a captured step and other ranks count on the first shape and dtype",
    ),
    "state precise": (
        state.is_precise,
        "what a long text adds to a sum in 16 bits is lost, however well a short one trains",
    ),
    "state not cast": (
        state.is_not_cast,
        "a state in fp32 that passes through 16 bits costs twice the memory and loses as much",
    ),
    "padding unread": (
        reading.padding,
        "the last segment of each stream is padded: losses and memory would depend on the batch",
    ),
    "cut anywhere": (
        reading.cuts,
        "the state would not hold what the text said, and evaluations depend on tgt_len",
    ),
    "rows apart": (
        reading.company,
        "losses would depend on how streams are split among micro batches and ranks",
    ),
    "no hidden state": (
        reading.hidden,
        "a checkpoint does not hold it: a resumed run would be another, and texts would mix",
    ),
    "NaN stays in its stream": (
        reading.nan,
        "one bad document would cost the memory of all streams that are read beside it",
    ),
    "predict agrees": (
        predicting.agrees,
        "what the model writes would come from other probabilities than those it is scored by",
    ),
    "causal": (
        predicting.causal,
        "a model that sees what it is to predict has a low loss and writes nonsense",
    ),
    "reach": (
        predicting.reach,
        "evaluations would give other nats at another batch size or number of ranks",
    ),
    "nats alone": (
        predicting.nats_alone,
        "the perplexity would count what is no text, and compare with no other model's",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A check, and what it found."""

    name: str
    why: str
    """Why it matters."""
    finding: Finding | None
    """The smallest input for which it does not hold; None if it holds for all that were tried."""
    excused: str = ""
    """The model's own property because of which nothing was tried; empty if something was."""

    @property
    def holds(self) -> bool:
        """Return whether nothing was found."""
        return self.finding is None


def examined(
    config: ModelConfig, *, device: torch.device, names: Sequence[str] | None = None
) -> Iterator[Checked]:
    """Yield what becomes of each check, or of those with `names`.

    Raises:
        InputError: the model cannot be built.
    """
    Subject(config, device).model  # noqa: B018  # a model that cannot be built is no finding
    for name, (find, why) in CHECKS.items():
        if names is not None and name not in names:
            continue
        subject = Subject(config, device)
        if name == "cut anywhere" and subject.whole_segments:
            told_by_model = "the model reads whole segments: its nats depend on tgt_len"
            yield Checked(name=name, why=why, finding=None, excused=told_by_model)
        else:
            yield Checked(name=name, why=why, finding=_first(find, subject))


def _first(find: Find, subject: Subject) -> Finding | None:
    """Return the first finding; an error of the model is one, too."""
    torch.manual_seed(0)
    try:
        return next(find(subject), None)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except InputError as error:
        return Finding("the model's own refusal", str(error))
    except Exception as error:  # a model is any code
        return Finding("the error came first", told(error))
