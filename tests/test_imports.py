"""The shape of the source: imports run one way, nothing runs at import, no file is long."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: The rooms: a row imports from the rows above it alone, and nothing in a circle. Names are without
#: `trainer.`; the longest that a module's name begins with is its room.
LAYERS = """
host_cpu protocol shell wording
errors
files memory_tree optional outside progress
config launcher_report launchers
distributed data.text
meeting
data.vocabulary model
data
data.prepare track engine budget
checkpoint report
inference
training
conformance
calls doctor
trainer
exchange
commands
__main__ txl_trainer
launch
"""

#: What a command that only reads a run, or explains itself, may import.
WITHOUT_TORCH = (
    "trainer",
    "trainer.report.compare.text",
    "trainer.report.folders",
    "trainer.report.formats",
    "trainer.report.groups",
    "trainer.report.inspect.replayed",
    "trainer.report.page.document",
    "trainer.report.plot",
    "trainer.report.summary",
    "trainer.report.table",
    "trainer.report.watch.watching",
    "trainer.track.run_files.results",
    "trainer.track.record.metrics",
    "trainer.track.run_files.status",
    "trainer.track.opening",
    "trainer.config.recipe",
    "trainer.config.deepspeed.file",
    "trainer.config.changes",
    "trainer.config.command_line.arguments",
    "trainer.commands.cli",
    "trainer.commands.corpora",
    "trainer.commands.exchange",
    "trainer.commands.inspecting",
    "trainer.commands.models",
    "trainer.commands.reference.page",
    "trainer.commands.reports",
    "trainer.commands.runs",
    "trainer.commands.command_line",
    "trainer.data.prepare.from_text",
)

#: Calls that make a constant.
CONSTANTS = {
    "BeforeValidator",
    "EventMeaning",
    "Field",
    "Meaning",
    "Nature",
    "Panel",
    "Peak",
    "Published",
    "Path",
    "RLock",
    "TypeVar",
    "_Launcher",
    "_container",
    "_number",
    "_text",
    "announced",
    "compile",
    "dtype",
    "free",
    "getLogger",
    "partial",
    "refused",
    "removeprefix",
    "split",
}

#: Of a function those after its signature: a kernel's arguments take ten.
MAX_FILE_LINES, MAX_FUNCTION_LINES = 325, 60


#: How the names of modules end that an export carries along: they import one another only.
CARRIED = "_txl"


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = [*sources("trainer", "launch"), ROOT / "txl_trainer.py"]
INITS = {f"{name_of(path)}.__init__" for path in SOURCES if path.name == "__init__.py"}
TREES = {name_of(path): ast.parse(path.read_text()) for path in SOURCES}


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield modules imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level > 0 and str(node.module).endswith(CARRIED):
                continue
            assert node.level == 0, "relative imports hide who imports whom"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in TREES else str(node.module)


GRAPH = {
    name: {module for module in imports(tree) if module in TREES} for name, tree in TREES.items()
}


def room_of(module: str, rooms: list[str]) -> str:
    """Return the entry of `LAYERS` that a module belongs to."""
    inner = module.removeprefix("trainer.")
    found = [room for room in rooms if inner == room or inner.startswith(f"{room}.")]
    return max(found, key=len) if found else pytest.fail(f"{module} has no place in LAYERS")


def test_imports_run_one_way() -> None:
    rows = [row.split() for row in LAYERS.strip().splitlines()]
    rooms = [room for row in rows for room in row]
    depth = {room: i for i, row in enumerate(rows) for room in row}
    wrong = []
    for module, imported in GRAPH.items():
        room = room_of(module, rooms)
        for other in (room_of(name, rooms) for name in imported):
            if other != room and depth[other] >= depth[room]:
                wrong.append(f"{module} imports {other}")
    assert wrong == []


def test_every_entry_of_the_table_is_a_room_or_module() -> None:
    parts = LAYERS.split()
    assert len(parts) == len(set(parts))
    assert {part for part in parts if not {part, f"trainer.{part}"} & {*TREES, "launch"}} == set()


def test_a_room_defines_nothing_itself() -> None:
    rooms = {name: tree for name, tree in TREES.items() if f"{name}.__init__" in INITS}
    assert len(rooms) > 10
    assert all(len(tree.body) == 1 for name, tree in rooms.items() if name != "trainer")


def test_no_imports_run_in_circles() -> None:
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(GRAPH)


def test_one_file_imports_deepspeed() -> None:
    importers = {
        name
        for name, tree in TREES.items()
        if any(m.split(".")[0] == "deepspeed" for m in imports(tree))
    }
    assert importers == {"trainer.engine.deepspeed"}


def test_the_code_that_exports_carry_stands_alone() -> None:
    carried = {name: tree for name, tree in TREES.items() if name.endswith(CARRIED)}
    assert carried
    for name, tree in carried.items():
        roots = {module.split(".")[0] for module in imports(tree)}
        assert roots - set(sys.stdlib_module_names) <= {"torch", "transformers"}, name
    assert not any(carried.keys() & imported for imported in GRAPH.values())


def heavy_imports(code: str) -> str:
    """Return what of torch, deepspeed and wandb a new process has loaded after running `code`."""
    code += "\nimport sys\nprint({'torch', 'deepspeed', 'wandb'} & set(sys.modules), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def test_what_needs_no_torch_does_not_wait_for_it() -> None:
    assert heavy_imports(f"import {', '.join(WITHOUT_TORCH)}") == "set()"
    assert heavy_imports("import trainer.protocol") == "{'torch'}"


def test_commands_that_only_read_do_not_wait_for_torch() -> None:
    show = ["config", "show", "quickstart", "--deepspeed-config", "zero0_fp32"]
    commands = [["recipes"], ["exit-codes"], ["reference"], show]
    runs = [f"parse_command({command}).run()" for command in commands]
    assert (
        heavy_imports("\n".join(["from trainer.commands.command_line import parse_command", *runs]))
        == "set()"
    )


def test_little_is_read_before_a_command_knows_what_to_do_about_a_signal() -> None:
    code = "import sys, trainer.commands.cli\nprint({m.split('.')[0] for m in sys.modules}, end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    others = ast.literal_eval(done.stdout) - set(sys.stdlib_module_names)
    assert {name for name in others if name.isidentifier() and name[0] != "_"} <= {
        "trainer",
        "coverage",
    }


def test_the_environment_is_read_where_a_command_or_a_call_begins() -> None:
    readers = {
        name
        for name, tree in TREES.items()
        if any(
            isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "putenv"}
            for node in ast.walk(tree)
        )
    }
    assert {name for name in readers if not name.startswith("launch.")} <= {
        "trainer",
        "trainer.commands.cli",
        "trainer.commands.checking",
        "trainer.commands.inspecting",
        "trainer.commands.models",
        "trainer.commands.command_line",
        "trainer.commands.doctor",
        "trainer.conformance.worker",
    }


def test_nothing_but_definitions_runs_at_import() -> None:
    wrong = [
        f"{name}:{statement.lineno}: {ast.unparse(statement).splitlines()[0]}"
        for name, tree in TREES.items()
        for statement in tree.body
        if not defines(statement)
    ]
    assert wrong == []


def defines(statement: ast.stmt) -> bool:
    """Return whether a statement of a module does nothing but give names to things."""
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.ClassDef():
            return True
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.If():
            return ast.unparse(statement.test) in {"TYPE_CHECKING", "__name__ == '__main__'"}
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            return {ast.unparse(call.func).split(".")[-1] for call in calls(statement)} <= CONSTANTS
    return False


def calls(node: ast.AST) -> Iterator[ast.Call]:
    """Yield what an expression calls when it is evaluated: the body of a lambda is not."""
    if isinstance(node, ast.Call):
        yield node
    if not isinstance(node, ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from calls(child)


@pytest.mark.parametrize("path", sources("trainer", "launch", "tests"), ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    n_file_lines = text.count("\n")
    assert n_file_lines <= MAX_FILE_LINES
    long = {
        node.name: n_lines
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        and (n_lines := 1 + (node.end_lineno or 0) - node.body[0].lineno) > MAX_FUNCTION_LINES
    }
    assert long == {}
