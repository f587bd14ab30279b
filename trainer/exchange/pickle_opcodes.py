"""Running the opcodes of a pickle on a `Machine`.

Opcodes that reach outside the stream (registered extensions, buffers) are left out.
"""

import codecs
import gc
import pickle
import struct
from collections.abc import Callable
from typing import Any

from trainer.exchange.pickle_machine import Machine
from trainer.exchange.stand_ins import Refused

#: The most opcodes of one pickle. A vocabulary of 267,735 words needs a quarter of them.
MAX_OPCODES = 8_000_000

_Step = Callable[[Machine], None]


def load(machine: Machine) -> Any:
    """Read the next pickle of the machine's file.

    Raises:
        pickle.UnpicklingError: the file has no pickle, or it ends early.
        Refused: the pickle exceeds a limit, or asks for something that the machine lacks.
    """
    machine.restart()
    collects = gc.isenabled()
    gc.disable()  # millions of new objects would make it search all objects again and again
    try:
        return _run(machine)
    except (IndexError, ValueError, TypeError, AttributeError, RuntimeError, struct.error) as error:
        raise pickle.UnpicklingError(f"not a whole pickle ({error})") from None
    finally:
        if collects:
            gc.enable()


def _run(machine: Machine) -> Any:
    for _ in range(MAX_OPCODES):
        code = machine.read(1)
        if code == pickle.STOP:
            return machine.take()
        step = _STEPS.get(code)
        if step is None:
            raise Refused(f"it holds opcode {code!r}")
        step(machine)
    raise Refused(f"it has more than {MAX_OPCODES:,} opcodes")


def _string(machine: Machine) -> None:
    """Push a text of Python 2, which is in quotes."""
    quoted = machine.line()
    if len(quoted) < 2 or quoted[0] != quoted[-1] or quoted[0] not in b"\"'":
        raise ValueError("a string without quotes")
    machine.push(codecs.escape_decode(quoted[1:-1])[0].decode("latin-1"))


def _bytearray(machine: Machine) -> None:
    machine.push(bytearray(machine.read(machine.unpack("<Q"))))


def _appended(machine: Machine) -> None:
    value = machine.take()
    machine.extend([value])


def _set_item(machine: Machine) -> None:
    value, key = machine.take(), machine.take()
    machine.update([key, value])


def _dict(machine: Machine) -> None:
    values = machine.marked()
    machine.push({})
    machine.update(values)


def _frozen_set(machine: Machine) -> None:
    values = machine.marked()
    machine.push(set())
    machine.add(values)
    machine.push(frozenset(machine.take()))


def _global(machine: Machine) -> None:
    machine.named(machine.line().decode(), machine.line().decode())


def _stack_global(machine: Machine) -> None:
    name, module = machine.take(), machine.take()
    if not isinstance(name, str) or not isinstance(module, str):
        raise TypeError("a name that is no text")
    machine.named(module, name)


def _instance(machine: Machine) -> None:
    """Push an instance of a class that the stream names; its arguments came before."""
    arguments = machine.marked()
    _global(machine)
    machine.make(machine.take(), tuple(arguments))


def _object(machine: Machine) -> None:
    kind, *arguments = machine.marked()
    machine.make(kind, tuple(arguments))


def _reduce(machine: Machine) -> None:
    arguments, kind = machine.take(), machine.take()
    machine.make(kind, arguments)


def _new_with_names(machine: Machine) -> None:
    named, arguments, kind = machine.take(), machine.take(), machine.take()
    if not isinstance(named, dict) or named:
        raise Refused("it makes an object with named arguments")
    machine.make(kind, arguments)


#: What each opcode does.
_STEPS: dict[bytes, _Step] = {
    pickle.PROTO: lambda m: _checked_protocol(m.unpack("B")),
    pickle.FRAME: lambda m: _ignored(m.unpack("<Q")),  # a frame has no effect
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.INT: lambda m: m.number(m.line()),
    pickle.LONG: lambda m: m.number(m.line().removesuffix(b"L")),
    pickle.BININT: lambda m: m.push(m.unpack("<i")),
    pickle.BININT1: lambda m: m.push(m.unpack("B")),
    pickle.BININT2: lambda m: m.push(m.unpack("<H")),
    pickle.LONG1: lambda m: m.long(m.unpack("B")),
    pickle.LONG4: lambda m: m.long(m.unpack("<i")),
    pickle.FLOAT: lambda m: m.push(float(m.line())),
    pickle.BINFLOAT: lambda m: m.push(m.unpack(">d")),
    pickle.STRING: _string,
    pickle.BINSTRING: lambda m: m.text(m.unpack("<i"), "latin-1"),
    pickle.SHORT_BINSTRING: lambda m: m.text(m.unpack("B"), "latin-1"),
    pickle.UNICODE: lambda m: m.push(str(m.line(), "raw-unicode-escape")),
    pickle.BINUNICODE: lambda m: m.text(m.unpack("<I")),
    pickle.SHORT_BINUNICODE: lambda m: m.text(m.unpack("B")),
    pickle.BINUNICODE8: lambda m: m.text(m.unpack("<Q")),
    pickle.BINBYTES: lambda m: m.push(m.read(m.unpack("<I"))),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.read(m.unpack("B"))),
    pickle.BINBYTES8: lambda m: m.push(m.read(m.unpack("<Q"))),
    pickle.BYTEARRAY8: _bytearray,
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.tuple_of(1),
    pickle.TUPLE2: lambda m: m.tuple_of(2),
    pickle.TUPLE3: lambda m: m.tuple_of(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.marked())),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: lambda m: m.push(m.marked()),
    pickle.APPEND: _appended,
    pickle.APPENDS: lambda m: m.extend(m.marked()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: _dict,
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: lambda m: m.update(m.marked()),
    pickle.EMPTY_SET: lambda m: m.push(set()),
    pickle.ADDITEMS: lambda m: m.add(m.marked()),
    pickle.FROZENSET: _frozen_set,
    pickle.MARK: lambda m: m.mark(),
    pickle.POP: lambda m: m.pop(),
    pickle.POP_MARK: lambda m: _ignored(m.marked()),
    pickle.DUP: lambda m: m.repeat(),
    pickle.PUT: lambda m: m.remember(int(m.line())),
    pickle.BINPUT: lambda m: m.remember(m.unpack("B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.unpack("<I")),
    pickle.MEMOIZE: lambda m: m.remember(None),
    pickle.GET: lambda m: m.recall(int(m.line())),
    pickle.BINGET: lambda m: m.recall(m.unpack("B")),
    pickle.LONG_BINGET: lambda m: m.recall(m.unpack("<I")),
    pickle.GLOBAL: _global,
    pickle.STACK_GLOBAL: _stack_global,
    pickle.INST: _instance,
    pickle.OBJ: _object,
    pickle.NEWOBJ: _reduce,
    pickle.NEWOBJ_EX: _new_with_names,
    pickle.REDUCE: _reduce,
    pickle.BUILD: lambda m: m.build(),
    pickle.PERSID: lambda m: m.kept(m.line().decode()),
    pickle.BINPERSID: lambda m: m.kept(m.take()),
}


def _checked_protocol(number: int) -> None:
    if number > pickle.HIGHEST_PROTOCOL:
        raise ValueError(f"protocol {number}")


def _ignored(_: Any) -> None:
    """Ignore a value that was read."""
