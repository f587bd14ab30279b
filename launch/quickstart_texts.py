"""Print the files that the quick start trains on, each with a NUL behind it.

They are the standard library's own modules: long files that refer back to themselves, which is what
memory is for. Left out is what differs between two machines with the same version of Python: what
a build generates, what distributions leave out, and what others put into the library.
"""

import sys
import sysconfig
from pathlib import Path

#: What distributions put into packages of their own, or drop; and tables of characters.
LEFT_OUT = {
    *("distutils", "ensurepip", "idlelib", "lib2to3", "macholib", "tkinter", "turtle"),
    *("turtledemo", "encodings"),
}
MIN_BYTES = 1025


def texts(library: Path) -> list[Path]:
    """Find the modules of `library`, in an order that no locale changes."""
    inside = sorted(path.relative_to(library) for path in library.rglob("*.py"))
    return [library / path for path in inside if is_wanted(path.with_suffix("").parts)]


def is_wanted(parts: tuple[str, ...]) -> bool:
    """Tell whether a module is everywhere the same, and no test."""
    is_test = any(part.startswith("test") or part.endswith("_test") for part in parts[:-1])
    return parts[0] in sys.stdlib_module_names and not is_test and LEFT_OUT.isdisjoint(parts)


if __name__ == "__main__":
    for path in texts(Path(sysconfig.get_paths()["stdlib"])):
        if path.stat().st_size >= MIN_BYTES:
            print(path, end="\0")
