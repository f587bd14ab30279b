"""Checks of the state itself: what the model returns as memory, before anything is made of it.

Each check yields its findings from the smallest input up; the first is the one that is told.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.config.precision import Precision
from trainer.conformance.subject import ROOM, Finding, Subject, changed, detached, tensors
from trainer.memory_tree import leaves
from trainer.protocol import Memory, Segment
from trainer.wording import counted

#: The precisions in which states are looked at.
_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16_autocast")
#: Streams and tokens of small segments.
_SMALL = ((1, 1), (1, 2), (2, 1), (2, 2))
#: A change of a number that 16 bits do not hold, and a fp32 number does; relative.
_FINE = 2.0**-13
#: Tokens of the text whose nats show how much a state in 16 bits loses, and how much more than the
#: arithmetic itself it may lose.
_LONG, _TIMES, _LEAST = 256, 3.0, 1e-3
#: Tokens that a model of whole segments reads at a time.
_WHOLE = 8


def is_detached(subject: Subject) -> Iterator[Finding]:
    """Yield where memory is attached to the graph of its segment."""
    for n_streams, n_tokens in _SMALL:
        memory = subject.empty(n_streams)
        for index in (0, 1):
            begin = index * n_tokens
            piece = subject.piece(begin, begin + n_tokens, rows=range(n_streams))
            memory = subject.forward(piece, memory, mode="training").memory
            for name, leaf in tensors(memory):
                if leaf.requires_grad:
                    where = subject.shown(piece) + (", the second segment" if index else "")
                    seen = f"{name} has a gradient function ({leaf.grad_fn})"
                    yield Finding(where, f"{seen.partition(' object')[0]}): detach it")
            memory = detached(memory)


def lies_apart(subject: Subject) -> Iterator[Finding]:
    """Yield where memory shares storage with the memory before, with weights, or with other memory.

    Empty memory may share nothing either: rows of it are overwritten where streams are forgotten.
    """
    own = {
        _place(tensor): f"the model's {name}"
        for name, tensor in [*subject.model.named_parameters(), *subject.model.named_buffers()]
        if tensor.numel()
    }
    for name, leaf in tensors(subject.empty(1)):
        if leaf.numel() and _place(leaf) in own:
            yield Finding("empty memory", f"{name} lies where {own[_place(leaf)]} lies")
    for n_streams, n_tokens in _SMALL:
        before = subject.empty(n_streams)
        piece = subject.piece(0, n_tokens, rows=range(n_streams))
        first = subject.forward(piece, before).memory
        second = subject.forward(piece, subject.empty(n_streams)).memory
        held = own | {_place(piece.tokens_BT): "the segment's tokens"}
        held |= {_place(x): f"the {n} before it" for n, x in tensors(before) if x.numel()}
        held |= {_place(x): f"the {n} of another text" for n, x in tensors(second) if x.numel()}
        for name, leaf in tensors(first):
            if leaf.numel() and _place(leaf) in held:
                what = held[_place(leaf)]
                yield Finding(subject.shown(piece), f"{name} lies where {what} lies: copy it")


def keeps_what_it_is_given(subject: Subject) -> Iterator[Finding]:
    """Yield where a pass changes the memory, or the segment, that it is given."""
    for n_streams, n_tokens in _SMALL:
        pieces = [
            subject.piece(i * n_tokens, (i + 1) * n_tokens, rows=range(n_streams)) for i in (0, 1)
        ]
        memory = subject.read(pieces[0], subject.empty(n_streams)).memory
        memory = changed(memory, lambda _, leaf: leaf.clone())  # so that no sharing hides it
        given = [*tensors(memory), ("tokens_BT", pieces[1].tokens_BT)]
        copies = [tensor.clone() for _, tensor in given]
        subject.forward(pieces[1], memory)
        for (name, tensor), copy in zip(given, copies, strict=True):
            if not torch.equal(tensor.nan_to_num(), copy.nan_to_num()):
                seen = f"the pass has changed {name} that it was given: write to a new tensor"
                yield Finding(f"{subject.shown(pieces[1])}, the second segment", seen)


def has_streams_first(subject: Subject) -> Iterator[Finding]:
    """Yield where the first dimension of a part is not the streams, or another depends on them."""
    one = dict(leaves(subject.empty(1)))
    for n_streams in (1, 2, 3, 5):
        found: Iterator[tuple[str, Any]] = leaves(subject.empty(n_streams))
        for name, leaf in found:
            if not isinstance(leaf, Tensor | int):
                kind = type(leaf).__name__
                yield Finding("empty memory", f"{name} is a {kind}, no tensor, tuple or number")
            elif isinstance(leaf, Tensor):
                like = one[name]
                assert isinstance(like, Tensor)
                if leaf.shape != (n_streams, *like.shape[1:]):
                    where = f"empty memory of {counted(n_streams, 'stream')}"
                    yield Finding(where, f"{name} is {_described(leaf)}, not streams first")


def keeps_its_shape(subject: Subject) -> Iterator[Finding]:
    """Yield where memory is nested, shaped or typed in another way than before the segment."""
    for precision in _PRECISIONS:
        for n_streams, n_tokens in (*_SMALL, (1, ROOM + 3)):
            before = subject.empty(n_streams, precision=precision)
            piece = subject.piece(0, n_tokens, rows=range(n_streams))
            after = subject.forward(piece, before, precision=precision).memory
            for seen in _misfits(before, after):
                yield Finding(f"{subject.shown(piece)} in {precision}", seen)


def _misfits(before: Memory, after: Memory) -> Iterator[str]:
    had, has = dict(leaves(before)), dict(leaves(after))
    for name in sorted(had.keys() ^ has.keys()):
        yield f"{name} is {'missing' if name in had else 'new'} after the segment"
    for name in had.keys() & has.keys():
        was, leaf = had[name], has[name]
        if not isinstance(was, Tensor) or not isinstance(leaf, Tensor):
            if type(was) is not type(leaf):
                yield f"{name} was a {type(was).__name__} and is a {type(leaf).__name__}"
        elif (was.shape, was.dtype) != (leaf.shape, leaf.dtype):
            yield f"{name} was {_described(was)} and is {_described(leaf)}"


def is_precise(subject: Subject) -> Iterator[Finding]:
    """Yield where a state of fewer bits than the arithmetic's loses what it sums up.

    In fp32 no part may have fewer than 32 bits. In bf16 a part may have 16 as long as nobody sees
    it: token by token a long text must come about as near to its nats in fp32 as in one segment. A
    model of whole segments must come as near as with the same segments and memory in fp32.
    """
    n_read, without = 1, "in one segment"
    if subject.whole_segments:
        n_read, without = _WHOLE, "with memory in fp32"
    for name, leaf in tensors(subject.empty(1)):
        if leaf.is_floating_point() and leaf.dtype.itemsize < 4:
            seen = f"{name} is {_described(leaf)} where fp32 is asked for: sums lose their low bits"
            yield Finding("empty memory", seen)
    for n_tokens in (8, 32, _LONG):
        whole = subject.piece(0, n_tokens)
        parts = [subject.piece(i, i + n_read) for i in range(0, n_tokens, n_read)]
        of_state = _off_in_bf16(subject, parts)
        if subject.whole_segments:
            of_arithmetic = _off_in_bf16(subject, parts, memory="fp32")
        else:
            of_arithmetic = _off_in_bf16(subject, [whole])
        if not of_state <= max(_LEAST, _TIMES * of_arithmetic):
            seen = (
                f"read on by {counted(n_read, 'token')} in bf16 the nats are off by "
                f"{of_state:.4f}, {without} by {of_arithmetic:.4f}: keep what is summed up in fp32"
            )
            yield Finding(subject.shown(whole), seen)


def _off_in_bf16(
    subject: Subject, segments: Sequence[Segment], *, memory: Precision = "bf16_autocast"
) -> float:
    """Return how far the nats of a text in bf16 are from those in fp32, root mean square."""
    precisions: tuple[tuple[Precision, Precision], ...] = (
        ("bf16_autocast", memory),
        ("fp32", "fp32"),
    )
    in_bf16, in_fp32 = (
        subject.read_on(
            segments, subject.empty(1, mem_len=_LONG, precision=kept), precision=one
        ).nats_BT.double()
        for one, kept in precisions
    )
    return float((in_bf16 - in_fp32).square().mean().sqrt())


def is_not_cast(subject: Subject) -> Iterator[Finding]:
    """Yield where a state in fp32 is rounded to 16 bits on its way through a segment.

    A part counts whose new numbers depend on its old ones: if then none of the new ones has low
    bits, or if low bits of the old ones change nothing at all, the part was cast.
    """
    for precision in _PRECISIONS:
        for n_streams, n_tokens in _SMALL:
            begun = subject.piece(0, n_tokens, rows=range(n_streams))
            memory = subject.empty(n_streams, precision=precision)
            memory = subject.read(begun, memory, precision=precision).memory
            piece = subject.piece(n_tokens, 2 * n_tokens, rows=range(n_streams))
            for name, leaf in tensors(memory):
                if leaf.dtype != torch.float32 or not leaf.numel():
                    continue
                for low in (torch.float16, torch.bfloat16):
                    seen = _lost(subject, memory, name, low, piece, precision)
                    if seen is not None:
                        yield Finding(f"{subject.shown(piece)} in {precision}", seen)


def _lost(
    subject: Subject,
    memory: Memory,
    name: str,
    low: torch.dtype,
    piece: Segment,
    precision: Precision,
) -> str | None:
    """Return what a part of memory loses because it is rounded to `low`; None if it is not."""
    leaf = dict(tensors(memory))[name]
    rough = leaf.to(low).float()
    sizes = torch.linspace(0.5, 1.0, leaf.numel(), device=leaf.device).view_as(leaf)

    def after(part: Tensor) -> Tensor:
        """Return the part after the segment, from memory with another such part."""
        given = changed(memory, lambda which, old: part if which == name else old)
        read = subject.read(piece, given, precision=precision)
        return dict(tensors(read.memory))[name]

    of_rough, of_fine = after(rough), after(rough * (1 + _FINE * sizes))
    next_ones = rough * (1 + 4 * torch.finfo(low).eps)
    if torch.equal(after(next_ones), of_rough) or of_fine.dtype != torch.float32:
        return None  # it depends on nothing that was there before, or is found by another check
    short = str(low).removeprefix("torch.")
    if torch.equal(of_fine, of_fine.to(low).float()):
        return f"every number of {name} fits into {short}: it is fp32 only by its dtype"
    if torch.equal(of_fine, of_rough):
        return f"{name} is the same whatever its bits beyond {short} were: it is cast when read"
    return None


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _described(tensor: Tensor) -> str:
    shape = "×".join(map(str, tensor.shape)) or "a number"
    return f"{shape} in {str(tensor.dtype).removeprefix('torch.')}"
