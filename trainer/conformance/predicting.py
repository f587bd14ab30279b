"""Checks of predictions: of `predict`, of time's direction, and of what else the model says.

Each check yields its findings from the smallest input up; the first is the one that is told.
"""

import re
from collections.abc import Iterator

import torch

from trainer.conformance.subject import (
    TOLERANCE,
    Finding,
    Subject,
    difference,
    nats_of,
)
from trainer.engine.passes.extra_losses import ExtraLosses
from trainer.protocol import IGNORED, Memory, reading_memory

#: Streams and tokens of segments.
_SIZES = ((1, 1), (1, 2), (2, 3), (1, 8))
#: Lengths of memory and of segments.
_LENGTHS = ((0, 2), (1, 1), (2, 2), (3, 2), (4, 3), (2, 5), (9, 4))
#: The most segments that are read to see how far back a model looks.
_MOST_SEGMENTS = 100


def agrees(subject: Subject) -> Iterator[Finding]:
    """Yield where `predict` gives other nats than `forward`, or leaves another memory."""
    for n_streams, n_tokens in _SIZES:
        rows = range(n_streams)
        pieces = [subject.piece(i * n_tokens, (i + 1) * n_tokens, rows=rows) for i in (0, 1)]
        read = subject.read_on(pieces, subject.empty(n_streams)).nats_BT
        for words, memory in (
            ("by forward", subject.empty(n_streams)),
            ("by forward, without reading_memory", _for_reading(subject, n_streams)),
        ):
            parts = []
            for piece in pieces:
                log_probs_BTV, memory = subject.predict(piece, memory)
                parts.append(nats_of(log_probs_BTV, piece))
                sums_BT = log_probs_BTV.double().logsumexp(dim=-1)
                if not bool((sums_BT.abs() < TOLERANCE).all()):
                    total = float(sums_BT.flatten()[0].exp())
                    seen = f"its probabilities add up to {total:.4f}: return log-probabilities"
                    yield Finding(subject.shown(piece), seen)
            seen_ = difference(torch.cat(parts, dim=1), read, words=words)
            if seen_:
                yield Finding(f"{subject.shown(pieces[0])} and as many again", f"predict: {seen_}")


def _for_reading(subject: Subject, n_streams: int) -> Memory:
    subject.model.eval()
    return reading_memory(
        subject.model, n_streams, mem_len=64, dtype=torch.float32, device=subject.device
    )


def causal(subject: Subject) -> Iterator[Finding]:
    """Yield where a token, or a target, changes what is predicted before it."""
    for n_tokens in (2, 3, 6):
        piece = subject.piece(0, n_tokens)
        log_probs_BTV, _ = subject.predict(piece, subject.empty(1))
        nats_BT = subject.read(piece, subject.empty(1)).nats_BT
        for place in range(1, n_tokens):
            tokens_BT = piece.tokens_BT.clone()
            tokens_BT[:, place] = (tokens_BT[:, place] + 1) % subject.vocabulary_size
            other = subject.segment(tokens_BT, piece.targets_BT)
            found_BTV, _ = subject.predict(other, subject.empty(1))
            words = f"if token {place + 1} is another"
            seen = difference(found_BTV[0, :place], log_probs_BTV[0, :place], words=words)
            if seen:
                seen = f"the prediction after token {_row(seen)} is another {words}"
            found_BT = subject.read(other, subject.empty(1)).nats_BT
            seen = seen or difference(found_BT[:, :place], nats_BT[:, :place], words=words)
            if seen:
                yield Finding(subject.shown(piece), seen)
        blind = subject.segment(piece.tokens_BT, torch.full_like(piece.targets_BT, IGNORED))
        found_BTV, _ = subject.predict(blind, subject.empty(1))
        if difference(found_BTV[0], log_probs_BTV[0], words=""):
            yield Finding(subject.shown(piece), "predictions are others without the targets")
        after = subject.piece(n_tokens, n_tokens + 2)
        known, unknown = (
            subject.read(after, subject.read(one, subject.empty(1)).memory).nats_BT
            for one in (piece, blind)
        )
        seen = difference(unknown, known, words="if the segment before had targets")
        if seen:
            yield Finding(subject.shown(piece), seen)


def _row(told: str) -> str:
    """Return the number of the row that `difference` has told of as a stream's."""
    found = re.search(r"of stream (\d+)", told)
    return found[1] if found else "1"


def reach(subject: Subject) -> Iterator[Finding]:
    """Yield where text farther back than the model's reach changes its nats.

    A row that begins with empty memory, and is warmed by so many segments, must have the nats of
    one that has read the text from its beginning.
    """
    for mem_len, tgt_len in _LENGTHS:
        n_back = subject.reach(mem_len, tgt_len)
        if n_back is None or n_back > _MOST_SEGMENTS:
            continue  # without end each row reads all: nothing can be wrong with that
        for n_before in range(n_back + 1, n_back + 4):
            pieces = [subject.piece(i * tgt_len, (i + 1) * tgt_len) for i in range(n_before + 1)]
            whole, warmed = (
                subject.read_on(part, subject.empty(1, mem_len=mem_len)).nats_BT[:, -tgt_len:]
                for part in (pieces, pieces[n_before - n_back :])
            )
            seen = difference(warmed, whole, words="if the text is read from its beginning")
            if seen:
                lengths = f"mem_len {mem_len}, tgt_len {tgt_len}"
                said = (
                    f"reach says {n_back}"
                    if hasattr(subject.model, "reach")
                    else f"without a method reach {n_back} is taken for it"
                )
                where = f"segment {n_before + 1} of a text, warmed by {n_back} before it, {lengths}"
                yield Finding(where, f"{said}, and {seen}")


def nats_alone(subject: Subject) -> Iterator[Finding]:
    """Yield where the sum of nats is not that of the tokens' nats, or counts an extra loss."""
    for n_streams, n_tokens in _SIZES:
        for mode in subject.modes:
            piece = subject.piece(0, n_tokens, rows=range(n_streams))
            output = subject.forward(piece, subject.empty(n_streams), mode=mode)
            ExtraLosses().of(output)  # refuses names and shapes that training refuses
            where = f"{subject.shown(piece)} in {mode}"
            loss_sum = output.loss_sum.detach()
            if loss_sum.dim() or loss_sum.dtype.itemsize < 4:
                yield Finding(where, f"loss_sum is {loss_sum}: return a number in fp32")
            expected = {
                "predict": nats_of(subject.predict(piece, subject.empty(n_streams))[0], piece)
            }
            if output.nll_BT is not None:
                expected["nll_BT"] = output.nll_BT.detach()
            for name, nats_BT in expected.items():
                found, total = float(loss_sum), float(nats_BT.double().sum())
                if not abs(found - total) <= TOLERANCE * (1 + abs(total)):
                    told = f"loss_sum is {found:.6f}, and the nats of {name} add up to {total:.6f}"
                    yield Finding(where, told)
