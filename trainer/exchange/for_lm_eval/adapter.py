"""A trained model as lm-eval's model ``txl``.

Importing this file makes the name known to lm-eval, whose released versions look for models of
others nowhere (0.4.13). `txl lm-eval` imports it first; so does a Python program that calls
`lm_eval.simple_evaluate(model="txl", model_args="run=runs/mine")`.
"""

from collections.abc import Iterable
from contextlib import suppress
from itertools import takewhile
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from trainer.data.vocabulary.files import (
    TokenizerVocabulary,
    UnknownSymbolError,
    Vocabulary,
    encode_given,
)
from trainer.distributed import choose_device
from trainer.errors import InputError
from trainer.exchange.for_lm_eval.arguments import Arguments
from trainer.host_cpu import use_cpu_well
from trainer.inference.loading import open_trained
from trainer.inference.sampling_options import Sampling
from trainer.inference.settings import scoring_of
from trainer.inference.texts.continuations import continuations, document_nats
from trainer.track.console.progress import progress

#: What tasks may say of a generation, besides where it ends.
_OF_SAMPLING = {"temperature", "top_k", "top_p"}
#: Requests that are scored between two readings of the progress.
_AT_ONCE = 64


@register_model("txl")
class TxlLM(TemplateLM):
    """A run's checkpoint, or an exported model.

    Texts are read with memory from their beginning, however long, and nothing is cut away. A
    document begins after the end of another one, as in a corpus: `prefix_token_id`.
    """

    def __init__(self, **given: Any) -> None:
        """Load the model; `Arguments` describes what may be given.

        Raises:
            InputError: an argument is unknown or wrong, or the model cannot be used.
        """
        super().__init__()
        asked = Arguments.of(given)
        kind, _, number = asked.device.partition(":")
        is_default = asked.device == "cuda:0"  # of lm-eval, on machines without a GPU too
        self._device = choose_device("auto" if is_default else kind, local_rank=int(number or 0))
        if self._device.type == "cpu":
            use_cpu_well()
        self._trained = open_trained(
            asked.run,
            which=asked.checkpoint,
            precision=asked.precision,
            device=self._device,
            trust=asked.trust_code,
        )
        self._scoring = scoring_of(self._trained.experiment, **asked.lengths())
        self._vocabulary = self._trained.vocabulary
        self._prefix_id = asked.prefix_token_id
        self._n_generated = 0

    @property
    def eot_token_id(self) -> int:
        """Return the id of the end of a line or document; see `prefix_token_id`."""
        return self.prefix_token_id

    @property
    def prefix_token_id(self) -> int:
        """Return the id after which a text without a context begins.

        Raises:
            InputError: the vocabulary has no end of a line or document.
        """
        if self._prefix_id is None:
            self._prefix_id = _end_of(self._vocabulary)
        if not 0 <= self._prefix_id < self._vocabulary.size:
            raise InputError(
                f"prefix_token_id {self._prefix_id} is no id of {self._vocabulary.size:,}"
            )
        return self._prefix_id

    @property
    def tokenizer_name(self) -> str:
        """Return a name for caches of requests, which differ by vocabulary."""
        return f"txl-{self._vocabulary.hash}"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Refuse a chat, of which these models know nothing."""
        raise InputError("the model txl has no chat template: leave --apply_chat_template out")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **others: Any
    ) -> list[int]:
        """Return the ids of a text, to which nothing is ever added.

        Raises:
            InputError: the vocabulary lacks a symbol of the text.
        """
        return encode_given(self._vocabulary, string, what="a text of the task")

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of whole texts, every token once, as `TrainedModel.score` does.

        The first token is predicted from `prefix_token_id`. No end is added.
        """
        texts = [request.args[0] for request in requests]
        documents = [[self.prefix_token_id, *self.tok_encode(text)] for text in texts]
        found = []
        for its in self._in_parts(documents, shows=not disable_tqdm):
            found += [-nats for nats in document_nats(self._trained, its, scoring=self._scoring)]
        for text, loglikelihood in zip(texts, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), loglikelihood)
        return found

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **others: Any,
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        found = []
        for its in self._in_parts(pairs, shows=not disable_tqdm):
            scores = continuations(self._trained, its, scoring=self._scoring)
            found += [(-score.loss_sum, score.is_likeliest) for score in scores]
        for (texts, _, _), answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def _in_parts(self, items: list[Any], *, shows: bool) -> Iterable[list[Any]]:
        at_once = max(_AT_ONCE, self._scoring.batch_size)
        with progress("scoring", total=len(items), shows=shows) as advance:
            for i in range(0, len(items), at_once):
                yield items[i : i + at_once]
                advance(len(items[i : i + at_once]))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what follows each context, up to the first of its ends.

        Raises:
            InputError: a task asks for a generation that these models do not have.
        """
        made = []
        with progress("generating", total=len(requests), shows=not disable_tqdm) as advance:
            for request in requests:
                context, kwargs = request.args
                made.append(self._generate(context, normalize_gen_kwargs(kwargs)))
                self.cache_hook.add_partial("generate_until", (context, kwargs), made[-1])
                advance(1)
        return made

    def _generate(self, context: str, asked: dict[str, Any]) -> str:
        """Return the text of the tokens after `context`, decoded by themselves."""
        ends, n_tokens = asked.pop("until"), asked.pop("max_gen_toks")
        ends = [end for end in ([ends] if isinstance(ends, str) else ends) if end]
        if not asked.pop("do_sample"):
            asked["temperature"] = 0.0
        if unknown := sorted(asked.keys() - _OF_SAMPLING):
            raise InputError(
                f"the task asks for a generation by {', '.join(unknown)}, which the model txl does "
                f"not have: say with --gen_kwargs what it has ({', '.join(sorted(_OF_SAMPLING))})"
            )
        prompt = self.tok_encode(context) or [self.prefix_token_id]
        sampling = Sampling(n_tokens=n_tokens, seed=self._n_generated, **asked)
        self._n_generated += 1
        ids: list[int] = []
        for token in takewhile(
            lambda token: not self._ends_document(token),
            self._trained.following_ids(prompt, sampling, scoring=self._scoring),
        ):
            ids.append(token)
            if any(end in self._vocabulary.decode(ids) for end in ends):
                break
        text = self._vocabulary.decode(ids)
        for end in ends:
            text = text.partition(end)[0]
        return text

    def _ends_document(self, token: int) -> bool:
        """Return whether a token is an end that no text can hold, as tokenizers have one."""
        is_tokenizer = isinstance(self._vocabulary, TokenizerVocabulary)
        return is_tokenizer and token == self._vocabulary.eos_id

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval's file of results says of the model."""
        return {
            "model_path": str(self._trained.path),
            "model_weights_hash": self._trained.weights_hash,
            "model_precision": self._trained.precision,
            **self._scoring.model_dump(mode="json", exclude={"warm", "batch_size"}),
        }


def _end_of(vocabulary: Vocabulary) -> int:
    """Return the id of the end of a document, or else of a line.

    Raises:
        InputError: the vocabulary has neither.
    """
    if vocabulary.eos_id is not None:
        return vocabulary.eos_id
    with suppress(UnknownSymbolError):
        ids = vocabulary.encode("\n")
        if len(ids) == 1 and ids[0] != vocabulary.unk_id:
            return ids[0]
    raise InputError(
        "the vocabulary has no end of a line or document, after which a text could begin: add "
        "prefix_token_id=ID to --model_args"
    )
