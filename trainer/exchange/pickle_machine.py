"""A pickle machine with limits: its stack, its memo, and the memory that its values may take.

Python's own machine trusts its stream: a few bytes make it reserve gigabytes, and deeply nested
tuples as a key crash the interpreter. This machine counts the memory of its values, and calls only
functions given to it as a `Call`. The machine's user decides what a name in the stream stands for.
`trainer.exchange.pickle_opcodes` runs the opcodes.
"""

import itertools
import pickle
import struct
import sys
from collections.abc import Callable
from typing import IO, Any

from trainer.exchange.stand_ins import Call, Mapping, Opaque, OpaqueClass, Refused, checked_key

#: The most bytes of all values of a file. A vocabulary of 267,735 words needs half of them.
MAX_BYTES = 180 << 20
#: Bytes of a value's place in a container, with Python's own data about it.
_PLACE_BYTES = 24
#: Bytes of a place in the memo, which grows in steps larger than it needs.
_NUMBERED_BYTES = 12
#: The most bytes of a number, and of a line of protocol 0. No checkpoint has longer ones.
_MAX_NUMBER_BYTES, _MAX_LINE_BYTES = 64, 1 << 20


class Machine:
    """A machine that builds values from a file.

    Args:
        file: the file, open at the first opcode.
        n_bytes: bytes of the file that may be read.
        find: returns what a module and a name stand for, or raises `Refused`.
        persistent: returns an object that is stored outside the stream, or raises `Refused`.
    """

    def __init__(
        self,
        file: IO[bytes],
        n_bytes: int,
        *,
        find: Callable[[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._file, self._left = file, n_bytes
        self._find, self._persistent = find, persistent
        self._n_bytes = 0
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: list[Any] = []

    def restart(self) -> None:
        """Forget the stack and the memo, before another pickle of the same file."""
        self._stack, self._marked, self._memo = [], [], []

    def read(self, n_bytes: int) -> bytes:
        """Read exactly `n_bytes` bytes."""
        if not 0 <= n_bytes <= self._left:
            raise pickle.UnpicklingError("it ends early")
        self._left -= n_bytes
        found = self._file.read(n_bytes)
        if len(found) < n_bytes:
            raise pickle.UnpicklingError("it ends early")
        return found

    def unpack(self, form: str) -> Any:
        """Read a number in a form of the module `struct`."""
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        """Read up to the end of a line, without it."""
        found = self._file.readline(min(self._left, _MAX_LINE_BYTES))
        self._left -= len(found)
        if not found.endswith(b"\n"):
            raise pickle.UnpicklingError("a line of it does not end")
        return found[:-1]

    def spend(self, n_bytes: int) -> None:
        """Count the memory of a value; refuse more than `MAX_BYTES` in all."""
        self._n_bytes += n_bytes
        if self._n_bytes > MAX_BYTES:
            raise Refused(f"its values would take more than {MAX_BYTES >> 20} MiB")

    def push(self, value: Any) -> None:
        """Put a new value on the stack."""
        self.spend(sys.getsizeof(value) + _PLACE_BYTES)
        self._stack.append(value)

    def number(self, text: bytes) -> None:
        """Push a whole number written in digits."""
        if len(text) > _MAX_NUMBER_BYTES:
            raise Refused(f"a number of {len(text):,} digits")
        self.push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))

    def long(self, n_bytes: int) -> None:
        """Push a whole number written in bytes."""
        if not 0 <= n_bytes <= _MAX_NUMBER_BYTES:
            raise Refused(f"a number of {n_bytes:,} bytes")
        self.push(int.from_bytes(self.read(n_bytes), "little", signed=True))

    def text(self, n_bytes: int, encoding: str = "utf-8", errors: str = "surrogatepass") -> None:
        """Push a text."""
        self.push(str(self.read(n_bytes), encoding, errors))

    def mark(self) -> None:
        """Begin a run of values."""
        self.spend(64)
        self._marked.append(self._stack)
        self._stack = []

    def marked(self) -> list[Any]:
        """Take off the values of the run that began last."""
        values = self._stack
        self._stack = self._marked.pop()
        return values

    def pop(self) -> None:
        """Drop the last value, or the last run if it is empty."""
        if self._stack:
            self._stack.pop()
        else:
            self.marked()

    def tuple_of(self, n_values: int) -> None:
        """Make a tuple of the last values."""
        if len(self._stack) < n_values:
            raise IndexError("a tuple of more values than there are")
        values = tuple(self._stack[-n_values:])
        del self._stack[-n_values:]
        self.push(values)

    def repeat(self) -> None:
        """Push the last value again."""
        self.spend(8)
        self._stack.append(self._stack[-1])

    def remember(self, index: int | None) -> None:
        """Keep the last value under a number; None means the next free number."""
        index = len(self._memo) if index is None else index
        missing = index + 1 - len(self._memo)
        if missing > 0:
            self.spend(_NUMBERED_BYTES * missing)
            self._memo.extend(itertools.repeat(None, missing))
        self._memo[index] = self._stack[-1]

    def recall(self, index: int) -> None:
        """Push the value kept under a number."""
        self.spend(8)
        self._stack.append(self._memo[index])

    def extend(self, values: list[Any]) -> None:
        """Add values to the list on the stack."""
        target = self._stack[-1]
        if isinstance(target, Opaque):
            target = target.items
        if not isinstance(target, list):
            raise Refused(f"a {type(target).__name__} takes no items")
        self.spend(8 * len(values))
        target.extend(values)

    def update(self, values: list[Any]) -> None:
        """Add keys and values, one after the other, to the dict on the stack."""
        target = self._stack[-1]
        if len(values) % 2 or not isinstance(target, dict | Opaque):
            raise Refused(f"a {type(target).__name__} takes no keys")
        self.spend(64 * len(values))
        pairs = zip(values[::2], values[1::2], strict=True)
        if isinstance(target, Opaque):
            target.items.extend(pairs)
        else:
            target.update((checked_key(key), value) for key, value in pairs)

    def add(self, values: list[Any]) -> None:
        """Add values to the set on the stack."""
        target = self._stack[-1]
        if not isinstance(target, set):
            raise Refused(f"a {type(target).__name__} takes no elements")
        self.spend(64 * len(values))
        target.update(map(checked_key, values))

    def make(self, kind: Any, args: Any) -> None:
        """Push an object of a class, or a function's result."""
        if not isinstance(args, tuple):
            raise Refused("arguments are no tuple")
        if isinstance(kind, Call):
            made = kind.function(*args)
            for arg in args:  # a container may copy its argument
                self.spend(64 * len(arg) if isinstance(arg, list | tuple | dict | set) else 64)
        elif isinstance(kind, OpaqueClass):
            made = Opaque(kind.path, args)
            self.spend(64)
        else:
            raise Refused(f"it calls a {type(kind).__name__}")
        self.push(made)

    def build(self) -> None:
        """Give the last value, as its state, to the object below it on the stack."""
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif not isinstance(target, Mapping):  # an ordered dict's attributes are dropped
            raise Refused("it would change how tensors and values are built")

    def named(self, module: str, name: str) -> None:
        """Push what a name stands for."""
        self.push(self._find(module, name))

    def kept(self, identity: Any) -> None:
        """Push an object that is stored outside the stream."""
        if self._persistent is None:
            raise Refused("it refers to something outside the file")
        self._stack.append(self._persistent(identity))

    def take(self) -> Any:
        """Take the last value off the stack."""
        return self._stack.pop()
