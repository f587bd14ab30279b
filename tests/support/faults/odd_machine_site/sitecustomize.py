"""Makes the Python process that finds it on its path one on an odd machine, see `odd_machine`."""

import os

from odd_machine import put_on

if os.environ.get("ODD_MACHINE"):
    put_on(os.environ["ODD_MACHINE"].split("|"))
