"""Drawing the next token, with the tails of an adaptive softmax computed only where they matter.

In most models the tails hold nearly all words, and few of the tokens.

N rows · V vocabulary · K tails.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.inference.sampling_options import Sampling
from trainer.model.adaptive import LogProbs, cluster_bounds


def probabilities(log_probs_V: Tensor, sampling: Sampling) -> Tensor:
    """Return the next token's distribution, `[V]` in fp64: temperature, then top-k, then top-p.

    Top-k keeps the k likeliest tokens. Of those, top-p keeps the fewest that together reach the
    share p of their probability, the likeliest first, and at least one. Of equally likely tokens
    the lower id comes first. The probabilities kept are normalised again.
    """
    if sampling.temperature == 0:
        return F.one_hot(log_probs_V.argmax(), len(log_probs_V)).double()
    # The largest is taken off, so that no temperature, however small, sends all to -inf.
    logits_V = (log_probs_V - log_probs_V.max()).double() / sampling.temperature
    weights_V = logits_V.softmax(dim=0)
    if sampling.top_k == 0 and sampling.top_p == 1:
        return weights_V
    order_V = log_probs_V.argsort(descending=True, stable=True)
    ranked_V = weights_V[order_V]
    if sampling.top_k:
        ranked_V[sampling.top_k :] = 0
    if sampling.top_p < 1:
        reached_V = ranked_V.cumsum(dim=0)
        ranked_V[1:][reached_V[:-1] >= sampling.top_p * reached_V[-1]] = 0
    return torch.zeros_like(weights_V).index_copy(0, order_V, ranked_V / ranked_V.sum())


def all_known(log_probs_NV: Tensor, cutoffs: tuple[int, ...]) -> LogProbs:
    """Return known log-probabilities as `LogProbs`, for which `draw` takes the same draws.

    Cutoffs that lie beyond the words, as of a model without clusters, are left out.
    """
    n_words = log_probs_NV.shape[-1]
    bounds = cluster_bounds(tuple(c for c in cutoffs if c < n_words), n_words)
    head_NV, *tails = (log_probs_NV[:, low:high] for low, high in bounds)
    of_tails = [tail_NV.logsumexp(-1, keepdim=True) for tail_NV in tails]
    tails_NK = torch.cat([head_NV[:, :0], *of_tails], dim=-1)
    return LogProbs(bounds, head_NV, tails_NK, lambda c: tails[c - 1])


def draw(words: LogProbs, sampling: Sampling, draws: torch.Generator) -> int:
    """Draw a token from `probabilities` of `words`, `[1, V]`, on the host."""
    is_cut = 0 < sampling.top_k < words.bounds[-1][1] or sampling.top_p < 1
    if sampling.temperature > 0 and not is_cut:
        return _draw_from_all(words, sampling.temperature, draws)
    head_V, tails_K = words.head_NV[0].cpu(), words.tails_NK[0].tolist()
    least = -math.inf  # a tail no likelier than this holds no word that can be drawn
    if sampling.temperature == 0:
        least = float(head_V.max())
    elif 0 < sampling.top_k <= len(head_V):
        least = float(head_V.topk(sampling.top_k).values[-1])
    parts, ids = [head_V], [torch.arange(len(head_V))]
    for c, tail in enumerate(tails_K, start=1):
        if tail > least:
            parts.append(words.of_tail(c)[0].cpu())
            ids.append(torch.arange(*words.bounds[c]))
    weights_V = probabilities(torch.cat(parts), sampling)
    return int(torch.cat(ids)[torch.multinomial(weights_V, 1, generator=draws)])


def _draw_from_all(words: LogProbs, temperature: float, draws: torch.Generator) -> int:
    """Draw from all words: cluster first, and a tail's words only if the tail is drawn.

    The weight of a word is p^(1/temperature); a tail's is the sum over its words. Before the words
    are computed only a bound of the sum is known: the weight if all were equally likely, or if one
    had all. A tail is drawn by its bound. Then its weight is computed, and the draw counts with
    probability weight / bound; otherwise another follows, in which the tail has its weight. So the
    draw that counts follows the weights, whatever the bounds are.
    """
    head_V, tails_K = words.head_NV[0].cpu().double(), words.tails_NK[0].cpu().double()
    best_K, n_head = tails_K.clone(), len(head_V)
    sizes_K = torch.tensor([high - low for low, high in words.bounds[1:]], dtype=torch.float64)
    bounds_K = max(0.0, 1 - 1 / temperature) * sizes_K.log()
    known: dict[int, Tensor] = {}
    while True:
        # The largest is taken off, so that no temperature, however small, sends all to -inf.
        top = torch.cat([head_V, best_K]).max()
        logits_K = (tails_K - top) / temperature + bounds_K
        for c, words_V in known.items():
            logits_K[c] = ((words_V - top) / temperature).logsumexp(0)
        weights = torch.cat([(head_V - top) / temperature, logits_K]).softmax(0)
        drawn = int(torch.multinomial(weights, 1, generator=draws))
        if drawn < n_head:
            return drawn
        c, counts = drawn - n_head, drawn - n_head in known
        if not counts:
            known[c] = words.of_tail(c + 1)[0].cpu().double()
            best_K[c] = known[c].max()
            share = (((known[c] - top) / temperature).logsumexp(0) - logits_K[c]).exp()
            counts = bool(torch.rand((), generator=draws, dtype=torch.float64) < share)
        if counts:
            words_V = ((known[c] - best_K[c]) / temperature).softmax(0)
            return words.bounds[c + 1][0] + int(torch.multinomial(words_V, 1, generator=draws))
