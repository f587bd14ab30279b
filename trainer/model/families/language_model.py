"""The model around a body that carries state: word embeddings below it, a softmax above.

B streams · T tgt_len · N positions (B·T) · D width · V vocabulary.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.errors import InputError
from trainer.memory_tree import detached
from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, LogProbs
from trainer.model.backend import Backend, compute_dtype
from trainer.model.choice import choose_backend
from trainer.model.dropout import dropout
from trainer.protocol import Memory, Output, Segment


class Body(Protocol):
    """A module between embeddings and softmax, which carries a stream's state."""

    is_static: bool
    """True if a pass over whole rows waits for no device; see `trainer.protocol.RecurrentModel`."""

    def empty_memory(self, n_streams: int, *, dtype: torch.dtype, device: torch.device) -> Any:
        """Return the state of `n_streams` streams that have read nothing.

        `dtype` is what the model computes in.
        """
        ...

    def __call__(self, x_BTD: Tensor, segment: Segment, memory: Any) -> tuple[Tensor, Any]:
        """Return hidden states and the state after the segment, which the graph is attached to.

        A row's padding changes no state. Documents that start in the segment see nothing before.
        """
        ...


class LanguageModel(nn.Module):
    """A `trainer.protocol.RecurrentModel` around a body, whose state looks back without end.

    The words are those of Transformer-XL: the clusters and ties of the recipe's `model` section
    say how they are embedded and predicted, and its `dropout` and `init_std` are theirs.
    """

    def __init__(
        self, config: ModelConfig, vocabulary_size: int, *, width: int, body: nn.Module
    ) -> None:
        """Put a body of a width between words, which are initialised here; the body is already.

        Raises:
            InputError: the width leaves the embedding's last cluster no width.
        """
        super().__init__()
        n_tails = len(config.cutoffs)
        if (config.d_embed or width) < config.div_val**n_tails:
            raise InputError(
                f"model.div_val {config.div_val} leaves the embedding's last of {n_tails + 1} "
                f"clusters no width: lower it, or give fewer --model.cutoffs"
            )
        self.config = config.model_copy(update={"d_model": width})
        self.embedding = AdaptiveEmbedding(self.config, vocabulary_size)
        self.body = body
        self.softmax = AdaptiveSoftmax(self.config, self.embedding)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        drawn = {id(p) for p in (*self.embedding.projections, *self.softmax.projections)}
        for p in (*self.embedding.parameters(), *self.softmax.parameters()):
            if p.dim() == 1:
                p.zero_()
            else:
                is_projection = id(p) in drawn
                p.normal_(
                    std=self.config.projection_init_std if is_projection else self.config.init_std
                )

    @property
    def is_static(self) -> bool:
        """Return whether a pass may be captured, see `trainer.protocol.RecurrentModel`."""
        return self._body().is_static

    def empty_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> Any:
        """Return memory of `n_streams` streams that have read nothing; it has no length."""
        return self._body().empty_memory(n_streams, dtype=dtype, device=device)

    def reach(self, mem_len: int, tgt_len: int) -> None:
        """Return that a state looks back without end, see `trainer.protocol.Reach`."""

    def forward(
        self,
        segment: Segment,
        memory: Memory,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
        attached: bool = False,
    ) -> Output:
        """Read a segment, predict its targets and update the memory; lengths mean nothing here.

        With `attached` the memory returned is not detached from the graph.
        """
        return self._forward(segment, memory, attached=attached)[0]

    def forward_with_hidden(
        self,
        segment: Segment,
        memory: Memory,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Output, Tensor]:
        """Return what `forward` returns, and what `hidden` does, in one pass."""
        output, hidden_BTD = self._forward(segment, memory)
        return output, hidden_BTD.detach()

    def predict(
        self,
        segment: Segment,
        memory: Memory,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Tensor, Memory]:
        """Return log-probabilities of the token after each, `[B, T, V]`, and the memory after."""
        hidden_BTD, after = self._read(segment, memory, self._backend())
        log_probs_NV = self.softmax(hidden_BTD.flatten(0, 1), None, ())
        return log_probs_NV.view(*segment.tokens_BT.shape, -1), detached(after)

    def hidden(
        self,
        segment: Segment,
        memory: Memory,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
    ) -> tuple[Tensor, Memory]:
        """Read a segment; return what the softmax reads, `[B, T, D]`, and the memory."""
        hidden_BTD, after = self._read(segment, memory, self._backend())
        return hidden_BTD, detached(after)

    def words_after(self, hidden_ND: Tensor) -> LogProbs:
        """Return the log-probabilities of the words after hidden states, as `predict` does."""
        return self.softmax.log_probs(hidden_ND)

    def _forward(
        self, segment: Segment, memory: Memory, *, attached: bool = False
    ) -> tuple[Output, Tensor]:
        """Return what `forward` returns, and what the softmax read."""
        backend = self._backend()
        hidden_BTD, after = self._read(segment, memory, backend)
        targets_N = segment.targets_BT.reshape(-1)
        how = (backend.nats, backend.filled, segment.filled)
        nll_N = self.softmax(hidden_BTD.flatten(0, 1), targets_N, segment.target_clusters, *how)
        nll_BT = nll_N.detach().view_as(segment.targets_BT)
        output = Output(nll_N.sum(), nll_BT, after if attached else detached(after))
        return output, hidden_BTD

    def _read(self, segment: Segment, memory: Memory, backend: Backend) -> tuple[Tensor, Memory]:
        how = (backend.lookup, segment.filled)
        x_BTD = self._dropped(self.embedding(segment.tokens_BT, segment.token_clusters, *how))
        x_BTD, after = self._body()(x_BTD, segment, memory)
        return self._dropped(x_BTD), after

    def _backend(self) -> Backend:
        table = self.embedding.tables[0]
        like = torch.empty((), dtype=compute_dtype(table), device=table.device)
        return choose_backend(self.config, like)

    def _body(self) -> Body:
        body: Any = self.body
        return body  # type: ignore[no-any-return]

    def _dropped(self, x_BTD: Tensor) -> Tensor:
        return dropout(x_BTD, self.config.dropout, training=self.training)
