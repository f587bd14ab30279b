"""The variables of the reference are those that the code and the scripts read."""

import re
from pathlib import Path

import trainer
from trainer.commands.reference.environment import VARIABLES

PACKAGE = Path(trainer.__file__).parent
LAUNCH = PACKAGE.parent / "launch"
#: What launchers, wandb's sweeps and the system set.
SET_BY_OTHERS = re.compile(
    r"SLURM_\w+|PMI_\w+|PMIX_RANK|OMPI_\w+|TORCHELASTIC_\w+|LOCAL_(WORLD_)?SIZE|HOME|NETRC|BASH_\w+"
    r"|WANDB_(SWEEP_ID|SERVICE|CONFIG_DIR|IDENTITY_TOKEN_FILE)|DS_ACCELERATOR"
)
#: What libraries read.
OF_LIBRARIES = {"TMPDIR", "RAYON_NUM_THREADS"}


def read_here() -> set[str]:
    """Return the names of variables that the source and the scripts read."""
    source = "\n".join(
        path.read_text()
        for path in [*PACKAGE.rglob("*.py"), *LAUNCH.rglob("*.py")]
        if path.parent.name != "reference"
    )
    scripts = "\n".join(
        path.read_text() for path in [*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")]
    )
    found = re.findall(r'environ(?:\.\w+\(|\[)"([A-Z_]+)"|"([A-Z_]+)" (?:not )?in environ', source)
    wandb = re.findall(r'"(WANDB_[A-Z_]+)"', source)
    return {a or b for a, b in found} | {*wandb} | {*re.findall(r"\$\{([A-Z_]+)", scripts)}


def test_every_variable_that_is_read_is_told_and_no_other() -> None:
    read = read_here()
    assert {"RUN_DIR", "WANDB_MODE", "NODE_RANK"} <= read
    assert {name for name in read if not SET_BY_OTHERS.fullmatch(name)} == (
        VARIABLES.keys() - OF_LIBRARIES
    )
