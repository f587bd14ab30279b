"""Why a worker ended, told to torchrun, which prints it last where it otherwise says nothing.

torchrun writes some 35 lines when a worker fails; their end is what the worker left in a file.
"""

import json
import time
from collections.abc import Mapping

#: Names the file, in the environment that torchrun gives its workers.
_FILE = "TORCHELASTIC_ERROR_FILE"


def tell_launcher(reason: str, *, environ: Mapping[str, str]) -> None:
    """Leave `reason` for torchrun's report, in the form of its own `record`; others do not ask."""
    path = environ.get(_FILE)
    if not path:
        return
    extra = {"py_callstack": reason, "timestamp": str(int(time.time()))}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": reason, "extraInfo": extra}}, file)
    except OSError:
        return  # nothing is lost: it was said on stderr
