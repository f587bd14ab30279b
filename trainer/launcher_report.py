"""Telling torchrun why a worker ended.

torchrun writes some 35 lines when a worker fails; the last are what the worker left in a file.
"""

import json
import time
from collections.abc import Mapping

#: The variable in which torchrun names the file to its workers.
_FILE = "TORCHELASTIC_ERROR_FILE"


def tell_launcher(reason: str, *, environ: Mapping[str, str]) -> None:
    """Leave `reason` for torchrun's report, in the form of its own `record`, if it asks for one."""
    path = environ.get(_FILE)
    if not path:
        return
    extra = {"py_callstack": reason, "timestamp": str(int(time.time()))}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": reason, "extraInfo": extra}}, file)
    except OSError:
        return  # nothing is lost: stderr has the reason
