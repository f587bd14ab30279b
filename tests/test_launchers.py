"""Who a process is follows from its launcher's variables, or one line says what is wrong."""

import re
from typing import Any

import pytest

from trainer.errors import InputError
from trainer.launchers import RENDEZVOUS, complete_environ, is_first_task

MEETING = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
TORCHRUN = MEETING | {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
}
#: What a task of `srun` sees, the sixth of eight on two nodes.
STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
#: What the script of a job of eight tasks sees.
BATCH = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "4(x2)",
}
#: The sixth of eight tasks, the second of four on its node, as launchers of MPI say it.
MPI = {
    "Open MPI": {
        "OMPI_COMM_WORLD_RANK": "5",
        "OMPI_COMM_WORLD_SIZE": "8",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
        "PMIX_RANK": "5",
    },
    "MVAPICH": {
        "MV2_COMM_WORLD_RANK": "5",
        "MV2_COMM_WORLD_SIZE": "8",
        "MV2_COMM_WORLD_LOCAL_RANK": "1",
        "MV2_COMM_WORLD_LOCAL_SIZE": "4",
    },
    "Intel MPI": {
        "PMI_RANK": "5",
        "PMI_SIZE": "8",
        "MPI_LOCALRANKID": "1",
        "MPI_LOCALNRANKS": "4",
    },
    "PALS": {"PMI_RANK": "5", "PMI_SIZE": "8", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "4"},
    "jsrun": {
        "JSM_NAMESPACE_RANK": "5",
        "JSM_NAMESPACE_SIZE": "8",
        "JSM_NAMESPACE_LOCAL_RANK": "1",
        "JSM_NAMESPACE_LOCAL_SIZE": "4",
    },
}
FLUX = {"FLUX_TASK_RANK": "5", "FLUX_JOB_SIZE": "8", "FLUX_TASK_LOCAL_ID": "1"}
PMI_OF_SRUN = {"PMI_RANK": "5", "PMI_SIZE": "8", "PMIX_RANK": "5"}


def numbers(environ: dict[str, str]) -> tuple[str, ...]:
    found = complete_environ(environ)
    return tuple(found[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE"))


def test_a_lone_process_is_all_there_is() -> None:
    found = complete_environ({"HOME": "/root"})
    assert set(found) - {"GLOO_SOCKET_IFNAME"} == set(RENDEZVOUS)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == ("0", "1", "0")
    assert 0 < int(found["MASTER_PORT"]) < 1 << 16
    assert is_first_task({})


def test_two_lone_processes_do_not_meet() -> None:
    environ = [complete_environ({}) for _ in range(5)]
    assert len({found["MASTER_PORT"] for found in environ}) > 1


def test_a_launchers_word_is_taken() -> None:
    found = complete_environ({**TORCHRUN, "HOME": "/root"})
    assert {key: found[key] for key in TORCHRUN if key in RENDEZVOUS} == {
        key: value for key, value in TORCHRUN.items() if key in RENDEZVOUS
    }
    assert found["LOCAL_SIZE"] == "2"


def test_under_srun_slurm_says_who_a_process_is() -> None:
    found = complete_environ(STEP | MEETING)
    assert numbers(STEP | MEETING) == ("5", "8", "1", "4")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("node0", "29500")
    assert complete_environ(STEP | TORCHRUN)["RANK"] == "3"
    assert numbers(STEP | MEETING | PMI_OF_SRUN) == ("5", "8", "1", "4")


@pytest.mark.parametrize(
    ("per_node", "node", "local_size"),
    [
        ("3(x2),2", "1", "3"),
        ("3(x2),2", "2", "2"),
        ("3,5", "1", "5"),
        ("", "0", "1"),
        ("3,x", "0", "1"),
        ("3", "9", "1"),
    ],
)
def test_srun_says_how_many_tasks_a_node_has(per_node: str, node: str, local_size: str) -> None:
    nodes = {"SLURM_STEP_TASKS_PER_NODE": per_node, "SLURM_NODEID": node}
    assert numbers(STEP | MEETING | nodes)[3] == local_size


@pytest.mark.parametrize("environ", [*MPI.values(), FLUX], ids=[*MPI, "Flux"])
def test_under_mpi_its_variables_say_who_a_process_is(environ: dict[str, str]) -> None:
    local_size = "1" if environ is FLUX else "4"
    assert numbers(environ | MEETING) == ("5", "8", "1", local_size)
    assert numbers(BATCH | environ | MEETING) == ("5", "8", "1", local_size)
    daemons = STEP | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}  # what mpirun starts
    assert numbers(daemons | environ | MEETING) == ("5", "8", "1", local_size)


@pytest.mark.parametrize(
    ("environ", "launcher"),
    [
        (STEP, "Slurm"),
        (STEP | {"MASTER_ADDR": ""}, "Slurm"),
        (STEP | PMI_OF_SRUN, "Slurm"),
        (MPI["Open MPI"], "Open MPI"),
        (BATCH | MPI["Open MPI"], "Open MPI"),
        (MPI["MVAPICH"], "MVAPICH"),
        (MPI["Intel MPI"], "MPI"),
        (FLUX, "Flux"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "8"}, "Slurm"),
    ],
)
def test_tasks_that_cannot_meet_are_refused_before_they_train_apart(
    environ: dict[str, str], launcher: str
) -> None:
    with pytest.raises(InputError, match=f"MASTER_ADDR is missing for 8 tasks of {launcher}: exp"):
        complete_environ(environ)
    with pytest.raises(InputError, match="MASTER_PORT is missing for 8 tasks"):
        complete_environ(environ | {"MASTER_ADDR": "node0"})
    assert not is_first_task(environ)


@pytest.mark.parametrize(
    "environ",
    [
        BATCH,
        BATCH | MEETING,
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},
        STEP
        | {
            "SLURM_PROCID": "0",
            "SLURM_STEP_NUM_TASKS": "1",
            "SLURM_LOCALID": "0",
            "SLURM_STEP_NUM_NODES": "1",
        },
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1"},
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
        MEETING,
    ],
)
def test_one_process_of_a_job_of_many_tasks_is_a_lone_one(environ: dict[str, str]) -> None:
    found = complete_environ(environ)
    assert (found["RANK"], found["WORLD_SIZE"]) == ("0", "1")
    assert found["MASTER_ADDR"] == "127.0.0.1"
    assert is_first_task(environ)


@pytest.mark.parametrize("missing", ["WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_half_a_rendezvous_is_refused(missing: str) -> None:
    environ = {key: value for key, value in TORCHRUN.items() if key != missing}
    with pytest.raises(InputError, match=f"RANK is set in the environment, but not {missing}"):
        complete_environ(environ)


WRONG: list[tuple[dict[str, Any], str]] = [
    (TORCHRUN | {"RANK": ""}, "RANK is '' in the environment, which is no number"),
    (TORCHRUN | {"RANK": "x\n\x1b[2Jerror: y"}, "RANK is .* which is no number"),
    (TORCHRUN | {"RANK": "-1"}, "RANK is '-1' .* no number"),
    (TORCHRUN | {"RANK": "²"}, "RANK is '²' .* no number"),
    (TORCHRUN | {"RANK": "9" * 5000}, "RANK is .* no number"),
    (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' .* no number"),
    (TORCHRUN | {"WORLD_SIZE": "0"}, "RANK is 3 .* of 0|RANK is 3 in the environment"),
    (TORCHRUN | {"RANK": "4"}, "RANK is 4 .* number 0 to 3"),
    (TORCHRUN | {"LOCAL_RANK": ""}, "LOCAL_RANK is ''"),
    (TORCHRUN | {"LOCAL_RANK": "2"}, "local rank is 2 .* number 0 to 1"),
    (TORCHRUN | {"MASTER_PORT": "http"}, "MASTER_PORT is 'http' .* no number"),
    (TORCHRUN | {"MASTER_PORT": "0"}, "MASTER_PORT is 0, which is no port"),
    (TORCHRUN | {"MASTER_PORT": "65536"}, "no port"),
    (STEP | MEETING | {"SLURM_PROCID": "?"}, "SLURM_PROCID is '\\?'"),
    (STEP | MEETING | {"SLURM_PROCID": "8"}, "SLURM_PROCID is 8 .* 0 to 7"),
    (STEP | MEETING | {"WORLD_SIZE": "4"}, "WORLD_SIZE is 4 .* Slurm started 8 tasks"),
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 in the environment, but there is no RANK"),
    ({"OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_RANK is set .* not OMPI_COMM_WORLD_SIZE"),
    ({"PMI_RANK": "", "PMI_SIZE": "2"}, "PMI_RANK is ''"),
    ({"PMIX_RANK": "0"}, "nothing says how many tasks there are"),
]


@pytest.mark.parametrize(("environ", "said"), WRONG)
def test_what_contradicts_itself_is_one_line_and_every_task_says_its_own(
    environ: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError) as refused:
        complete_environ(environ)
    told = str(refused.value)
    assert re.search(said, told), told
    assert told.isprintable()
    assert len(told) < 300
    if not said.startswith("MASTER_PORT") and said != "no port":
        assert is_first_task(environ)


def test_a_size_that_the_launcher_confirms_is_taken() -> None:
    assert numbers(STEP | MEETING | {"WORLD_SIZE": "8"}) == ("5", "8", "1", "4")


def test_ranks_of_one_host_are_told_to_stay_on_it() -> None:
    one_host = STEP | MEETING | {"SLURM_STEP_NUM_NODES": "1"}
    for environ in ({}, TORCHRUN | {"LOCAL_WORLD_SIZE": "4"}, one_host):
        assert complete_environ(environ)["GLOO_SOCKET_IFNAME"].startswith("lo")
        chosen = environ | {"GLOO_SOCKET_IFNAME": "ib0"}
        assert complete_environ(chosen).get("GLOO_SOCKET_IFNAME", "ib0") == "ib0"
    for environ in (TORCHRUN, STEP | MEETING, FLUX | MEETING):
        assert "GLOO_SOCKET_IFNAME" not in complete_environ(environ)
