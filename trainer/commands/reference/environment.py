"""Environment variables of the reference: what a user may set, and who reads it."""

from trainer.commands.reference.tables import Table, code

_TRAINING = "training"
_SCRIPTS = "`launch/*.sh`"
_SLURM = "`launch/slurm/train.sbatch`"
_SWEEP = "`launch/slurm/sweep.sbatch`"

#: What reads each variable, and what it says. Launchers set others, which are not to be touched.
VARIABLES: dict[str, tuple[str, str]] = {
    "DEVICE": ("`launch/environment.sh`", "cpu or cuda: the device that PyTorch is installed for"),
    "PYTHON": (_SCRIPTS, "interpreter to make .venv with; under Slurm the one that trains"),
    "RUN_DIR": (_SLURM, "directory of the run; by default runs/slurm-JOBID"),
    "SWEEP_DIR": (_SWEEP, "directory of the runs of a sweep; by default runs/sweep-ARRAYJOBID"),
    "MAX_STALLS": (_SLURM, "attempts in a row without progress after which it gives up; 3"),
    "NODE_RANK": ("`launch/multi_node.sh`", "line of this machine in the host file, from 0"),
    "OMP_NUM_THREADS": ("every command", "threads of a rank on CPUs: cores divided by ranks"),
    "MASTER_ADDR": (_TRAINING, "host where ranks meet, where no launcher says it"),
    "MASTER_PORT": (_TRAINING, "port where ranks meet, where no launcher says it"),
    "RANK": (_TRAINING, "number of this task, where no launcher says it; then also the next"),
    "WORLD_SIZE": (_TRAINING, "tasks in all"),
    "LOCAL_RANK": (_TRAINING, "number of this task on its machine"),
    "GLOO_SOCKET_IFNAME": (_TRAINING, "network interface between ranks on CPUs"),
    "TORCH_CPP_LOG_LEVEL": (_TRAINING, "what PyTorch's C++ logs: ERROR, or INFO to see more"),
    "WANDB_MODE": (_TRAINING, "online, offline or disabled, before --tracking.wandb"),
    "WANDB_API_KEY": (_TRAINING, "key with which runs are online"),
    "WANDB_BASE_URL": (_TRAINING, "address of another wandb server"),
    "WANDB_PROJECT": (_TRAINING, "before --tracking.project"),
    "WANDB_ENTITY": (_TRAINING, "before --tracking.entity"),
    "WANDB_NAME": (_TRAINING, "before --tracking.name"),
    "WANDB_RUN_GROUP": (_TRAINING, "before --tracking.group"),
    "WANDB_TAGS": (_TRAINING, "before --tracking.tags"),
    "WANDB_RUN_ID": (_TRAINING, "id of the wandb run, as sweeps set it"),
    "TMPDIR": ("`txl score`", "folder of the temporary file that holds the ids of much text"),
    "RAYON_NUM_THREADS": ("`txl prepare`", "threads of a subword tokenizer"),
}


def environment_table() -> Table:
    """Return the variables that a user may set."""
    rows = [(code(name), reader, meaning) for name, (reader, meaning) in VARIABLES.items()]
    return Table("", ("variable", "read by", "meaning"), rows)
