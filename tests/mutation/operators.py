"""The faults that can be seeded into a file: small changes of its syntax tree, each by an operator.

| operator | what it changes |
|---|---|
| comparison | `<` and `<=`, `>` and `>=`, `==` and `!=`, `is` and `is not`, `in` and `not in` |
| arithmetic | `+` and `-`, also in `+=`; `*` to `+`, `/` to `*`, `//` to `+`, `%` to `+` |
| constant | a number by one, True and False |
| logic | `and` and `or`; a condition, or what is behind `not`, to its contrary |
| call | a statement that is a call is left out |
| method | `x.detach()`, a clamp, a sort or a widening is left out: x stays |
| arguments | the first two arguments of a call change places |
| extremes | `min` and `max`, `any` and `all`, `minimum` and `maximum` |

What only tells is not changed: docstrings, annotations, decorators, messages of errors and logs.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
CALCULATED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Add,
    ast.Mod: ast.Add,
}
EXTREMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "minimum": "maximum",
    "maximum": "minimum",
    "clamp_min": "clamp_max",
    "clamp_max": "clamp_min",
}
LEFT_OUT = {"detach", "clamp_min", "clamp_max", "double", "float", "long", "contiguous", "clone"}
#: Functions whose arguments have no order, or that only look at types.
UNORDERED = {"min", "max", "minimum", "maximum", "isinstance", "getattr"}
TELLING = ("log", "warnings")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A change of one place in a file."""

    file: str
    line: int
    operator: str
    was: str
    now: str
    begin: int
    """The place's first byte in the file."""
    end: int

    @property
    def id(self) -> str:
        """Return what the log knows the fault by."""
        return f"{self.file}:{self.line}: {self.operator}: {self.was} → {self.now}"

    def seeded(self, source: bytes) -> bytes:
        """Return the file with the fault."""
        assert source[self.begin : self.end].decode() == self.was
        return source[: self.begin] + self.now.encode() + source[self.end :]


def comparison(node: ast.AST) -> Iterator[ast.AST]:
    """Change the comparison, of which there is one."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield ast.Compare(node.left, [COMPARED[type(node.ops[0])]()], node.comparators)


def arithmetic(node: ast.AST) -> Iterator[ast.AST]:
    """Take another operation of numbers."""
    if isinstance(node, ast.BinOp) and type(node.op) in CALCULATED:
        yield ast.BinOp(node.left, CALCULATED[type(node.op)](), node.right)
    if isinstance(node, ast.AugAssign) and type(node.op) in CALCULATED:
        yield ast.AugAssign(node.target, CALCULATED[type(node.op)](), node.value)


def constant(node: ast.AST) -> Iterator[ast.AST]:
    """Take another number."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)


def logic(node: ast.AST) -> Iterator[ast.AST]:
    """Take the other connective, or the contrary."""
    if isinstance(node, ast.BoolOp):
        other = ast.And if isinstance(node.op, ast.Or) else ast.Or
        yield ast.BoolOp(other(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)


def call(node: ast.AST) -> Iterator[ast.AST]:
    """Leave a statement out that is a call."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()


def method(node: ast.AST) -> Iterator[ast.AST]:
    """Leave a method out that returns much the same."""
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in LEFT_OUT:
            yield value
        case ast.Call(func=ast.Name(id="sorted"), args=[values, *_]):
            yield ast.Call(ast.Name("list"), [values], [])


def arguments(node: ast.AST) -> Iterator[ast.AST]:
    """Let the first two arguments of a call change places."""
    if isinstance(node, ast.Call) and len(node.args) >= 2:
        one, other, *rest = node.args
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
        if name not in UNORDERED and not any(isinstance(x, ast.Starred) for x in (one, other)):
            yield ast.Call(node.func, [other, one, *rest], node.keywords)


def extremes(node: ast.AST) -> Iterator[ast.AST]:
    """Take the other extreme."""
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in EXTREMES:
            yield ast.Call(ast.Name(EXTREMES[name]), node.args, node.keywords)
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in EXTREMES:
            yield ast.Call(ast.Attribute(value, EXTREMES[name]), node.args, node.keywords)


OPERATORS: tuple[Callable[[ast.AST], Iterator[ast.AST]], ...] = (
    comparison,
    arithmetic,
    constant,
    logic,
    call,
    method,
    arguments,
    extremes,
)


def faults_of(file: str, source: bytes) -> Iterator[Fault]:
    """Yield all faults that the operators can seed into a file."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _changeable(ast.parse(source)):
        if not hasattr(node, "lineno"):
            continue
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        for operator in OPERATORS:
            for changed in operator(node):
                text = ast.unparse(ast.fix_missing_locations(changed))
                now = f"({text})" if isinstance(changed, ast.expr) else text
                where = {"file": file, "line": node.lineno, "begin": begin, "end": end}
                was = source[begin:end].decode()
                yield Fault(operator=operator.__name__, was=was, now=now, **where)


def _changeable(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree on which what it computes depends."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _only_tells(child):
                yield from _changeable(child)


def _only_tells(node: ast.AST) -> bool:
    match node:
        case ast.Raise() | ast.Import() | ast.ImportFrom() | ast.Assert() | ast.JoinedStr():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
            return name in TELLING
        case ast.Call(func=ast.Name(id="TypeVar" | "Field" | "cast")):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Attribute() | ast.Subscript() | ast.Name() | ast.Tuple() | ast.List():
            return isinstance(node.ctx, ast.Store) and not isinstance(node, ast.Subscript)
    return False


def by_text(file: str, source: bytes, *, was: str, now: str) -> Fault:
    """Return a fault by hand: a text that is in the file once, and what stands there instead."""
    begin = source.find(was.encode())
    assert source.count(was.encode()) == 1, f"{file} has {was!r} {source.count(was.encode())} times"
    line = source[:begin].count(b"\n") + 1
    make = partial(Fault, file=file, line=line, operator="by hand", was=was, now=now)
    return make(begin=begin, end=begin + len(was.encode()))
