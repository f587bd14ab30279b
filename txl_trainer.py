"""The command ``txl`` under a name that nothing else has: ``python -m txl_trainer eval …``.

The package is called `trainer`, like another one on PyPI and many files in people's folders. Python
takes the first `trainer` on its path; this file takes the one beside it.
"""

import sys
from importlib import util
from pathlib import Path


def own_trainer() -> None:
    """Import the package `trainer` beside this file, even if another was imported before.

    Raises:
        SystemExit: the package is not whole, since another one was installed over it.
    """
    folder = Path(__file__).parent / "trainer"
    init = folder / "__init__.py"
    if not (init.is_file() and b"read_metrics" in init.read_bytes()):
        print(
            f"error: {folder} is not txl-trainer's: another package called trainer was installed "
            "over it or removed; install txl-trainer anew, in an environment of its own",
            file=sys.stderr,
        )
        sys.exit(2)
    if getattr(sys.modules.get("trainer"), "__file__", None) == str(init):
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "trainer"]:
        del sys.modules[name]
    places = [str(folder)]
    spec = util.spec_from_file_location("trainer", init, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["trainer"] = util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["trainer"])


def main() -> None:
    """Run the command ``txl``."""
    own_trainer()
    from trainer.commands.cli import main

    main()


if __name__ == "__main__":
    main()
