"""Which launcher started this process, and which backend fits it: from environments as launchers set them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch

from horovod_asl import launcher as launcher_module
from horovod_asl.backends import Serial, choose, create
from horovod_asl.errors import UserError
from horovod_asl.launcher import Launcher, announced_rank, detect

# Rank 5 of 8, local rank 1 of 4, as each launcher says it.
GLOO = {
    "HOROVOD_RANK": "5",
    "HOROVOD_SIZE": "8",
    "HOROVOD_LOCAL_RANK": "1",
    "HOROVOD_LOCAL_SIZE": "4",
    "HOROVOD_CROSS_RANK": "1",
    "HOROVOD_CROSS_SIZE": "2",
    "HOROVOD_CONTROLLER": "gloo",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_RANK": "5",
    "PMIX_NAMESPACE": "1234",
}
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8", "PMI_FD": "9", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}
# An allocation of sbatch, seen by its batch script; SLURM calls the script task 0 of node 0.
BATCH = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "8",
    "SLURM_NPROCS": "8",
    "SLURM_NNODES": "2",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
SRUN = BATCH | {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
PMIX = {"PMIX_RANK": "5", "PMIX_NAMESPACE": "slurm.pmix.77.0"}
PMI2 = {"PMI_RANK": "5", "PMI_SIZE": "8", "PMI_FD": "9", "PMI_JOBID": "77.0"}

NONE = Launcher("none", 0, 1, 0, 1)


def rank_5_of_8(name: str, *, has_pmi: bool = False) -> Launcher:
    return Launcher(name, rank=5, world_size=8, local_rank=1, local_size=4, has_pmi=has_pmi)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (GLOO, rank_5_of_8("horovodrun")),
        (OPEN_MPI, rank_5_of_8("mpirun")),
        (MPICH, rank_5_of_8("mpirun")),
        (TORCHRUN, rank_5_of_8("torchrun")),
        (SRUN, rank_5_of_8("srun")),
        (SRUN | PMIX, rank_5_of_8("srun", has_pmi=True)),
        (SRUN | PMI2, rank_5_of_8("srun", has_pmi=True)),
        ({}, NONE),
        (BATCH, NONE),
        ({"PATH": "/bin", "HOROVOD_CYCLE_TIME": "25", "MASTER_ADDR": "x", "LOCAL_RANK": "3"}, NONE),
    ],
)
def test_each_launcher_is_known_by_what_it_sets(environment: Mapping[str, str], expected: Launcher) -> None:
    assert detect(environment) == expected
    assert announced_rank(environment) == (None if expected == NONE else "5")


def test_messages_name_the_rank_also_where_the_rest_of_the_environment_is_refused() -> None:
    assert announced_rank({"RANK": "5"}) == "5"
    assert announced_rank(GLOO | {"RANK": "4", "WORLD_SIZE": "8"}) == "4"
    assert announced_rank(DAEMON_STEP | STEPS_PMI2 | TORCHRUN) == "5"


def test_what_is_launched_inside_a_batch_job_wins_over_the_job() -> None:
    for variables, name in (
        (GLOO, "horovodrun"),
        (OPEN_MPI, "mpirun"),
        (MPICH, "mpirun"),
        (TORCHRUN, "torchrun"),
    ):
        assert detect(BATCH | variables) == rank_5_of_8(name)


# A step that starts one daemon, proxy or agent per node, whose children inherit its variables.
DAEMON_STEP = BATCH | {
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
STEPS_PMI2 = {"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "9", "PMI_JOBID": "77.0"}


@pytest.mark.parametrize("step", [DAEMON_STEP, DAEMON_STEP | STEPS_PMI2, DAEMON_STEP | {"PMIX_RANK": "1"}])
@pytest.mark.parametrize(
    ("variables", "name"),
    [(OPEN_MPI, "mpirun"), (MPICH, "mpirun"), (TORCHRUN, "torchrun"), (GLOO, "horovodrun")],
)
def test_what_is_launched_inside_an_srun_step_wins_over_the_step(
    step: dict[str, str], variables: dict[str, str], name: str
) -> None:
    assert detect(step | variables) == rank_5_of_8(name)


@pytest.mark.parametrize(
    ("tasks_per_node", "node", "expected"),
    [("4(x2)", "1", 4), ("3,5", "0", 3), ("3,5", "1", 5), ("2(x3),1(x2)", "2", 2), ("2(x3),1(x2)", "3", 1)],
)
def test_tasks_on_an_uneven_step_s_node_are_counted(tasks_per_node: str, node: str, expected: int) -> None:
    step = SRUN | {"SLURM_STEP_TASKS_PER_NODE": tasks_per_node, "SLURM_NODEID": node}
    assert detect(step).local_size == expected


def test_without_local_variables_all_ranks_are_taken_to_be_here() -> None:
    launcher = detect({"RANK": "1", "WORLD_SIZE": "3"})
    assert (launcher.local_rank, launcher.local_size) == (1, 3)


@pytest.mark.parametrize("whole", [GLOO, OPEN_MPI, MPICH, TORCHRUN, SRUN])
def test_half_of_an_environment_is_refused(whole: dict[str, str]) -> None:
    rank = next(name for name in whole if name.endswith("RANK") or name == "SLURM_PROCID")
    size = next(name for name in whole if name.endswith(("_SIZE", "STEP_NUM_TASKS")))
    # Without its task count, a step of srun is a batch script.
    missing = (size, rank) if whole is not SRUN else (rank,)
    for name in missing:
        with pytest.raises(UserError, match=f"half-set.*{name}"):
            detect({key: value for key, value in whole.items() if key != name})


@pytest.mark.parametrize("value", ["", "x", "1.5", "0x1"])
@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_what_is_no_number_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"^{name}='{value}' is not a number"):
        detect(TORCHRUN | {name: value})


@pytest.mark.parametrize(("rank", "size"), [("8", "8"), ("-1", "8"), ("0", "0"), ("0", "-2")])
def test_a_rank_outside_its_world_is_refused(rank: str, size: str) -> None:
    with pytest.raises(UserError, match="outside a world"):
        detect({"OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_SIZE": size})


@pytest.mark.parametrize("local_rank", ["-1", "8"])
def test_a_local_rank_outside_the_world_is_refused(local_rank: str) -> None:
    with pytest.raises(UserError, match="outside a world"):
        detect(TORCHRUN | {"LOCAL_RANK": local_rank})


def test_two_launchers_that_agree_are_one_and_two_that_disagree_are_refused() -> None:
    assert detect(TORCHRUN | OPEN_MPI).world_size == 8
    for other in (TORCHRUN | {"RANK": "4"}, TORCHRUN | {"WORLD_SIZE": "6"}):
        with pytest.raises(UserError, match=r"two launchers disagree.*torchrun.*mpirun"):
            detect(other | OPEN_MPI)
    with pytest.raises(UserError, match="two launchers disagree"):
        detect(MPICH | {"RANK": "0", "WORLD_SIZE": "1"})  # a leftover in the shell, under a real mpirun


# -- the backend that fits ------------------------------------------------------------------------------------

ONE_TASK = dataclasses.replace(NONE, name="srun")


@pytest.mark.parametrize(
    ("launcher", "gpu_count", "expected"),
    [
        (detect(GLOO), 0, "horovod"),
        (detect(OPEN_MPI), 4, "horovod"),
        (detect(MPICH), 0, "horovod"),
        (detect(TORCHRUN), 4, "ddp"),
        (detect(SRUN), 0, "ddp"),
        (detect(SRUN | PMIX), 0, "horovod"),
        (detect(SRUN | PMI2), 0, "horovod"),
        (ONE_TASK, 0, "serial"),
        (ONE_TASK, 2, "dp"),
        (NONE, 0, "serial"),
        (NONE, 1, "serial"),
        (NONE, 2, "dp"),
    ],
)
def test_auto_takes_the_backend_of_the_launcher(launcher: Launcher, gpu_count: int, expected: str) -> None:
    assert choose("auto", launcher, gpu_count=gpu_count) == expected


def test_auto_keeps_the_launcher_s_backend_for_a_single_rank() -> None:
    assert choose("auto", Launcher("torchrun", 0, 1, 0, 1), gpu_count=0) == "ddp"
    assert choose("auto", Launcher("horovodrun", 0, 1, 0, 1), gpu_count=2) == "horovod"


ALLOWED = {
    "none": {"serial", "dp", "ddp", "horovod"},  # a world of one: any backend is right
    "horovodrun": {"horovod"},
    "mpirun": {"horovod"},
    "torchrun": {"ddp"},
    "srun": {"ddp", "horovod"},
}


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("requested", ["serial", "dp", "ddp", "horovod"])
def test_a_backend_that_would_train_separate_models_is_refused(name: str, requested: str) -> None:
    launcher = NONE if name == "none" else rank_5_of_8(name)
    if requested in ALLOWED[name]:
        assert choose(requested, launcher, gpu_count=0) == requested
    else:
        with pytest.raises(UserError, match=f"--backend {requested} .*{name}"):
            choose(requested, launcher, gpu_count=0)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in (*launcher_module._KNOWN, launcher_module._MPICH, launcher_module._SRUN):
        for variable in (names.rank, names.world_size):
            monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("alone")
def test_one_process_on_the_cpu_gets_the_serial_backend() -> None:
    backend = create("auto", device="cpu")
    assert type(backend) is Serial
    assert (backend.rank, backend.world_size, backend.num_replicas) == (0, 1, 1)
    assert backend.device == torch.device("cpu")


@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="--device cpu"):
        create("serial", device="cuda")


@pytest.mark.usefixtures("alone")
def test_a_backend_that_sees_another_world_than_the_launcher_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr("horovod_asl.backends._construct", lambda name, device, *rest: Serial(device))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(UserError, match="started 2 processes but serial sees 1"):
        create("auto", device="cpu")


@pytest.mark.usefixtures("alone")
def test_without_horovod_the_remedy_names_the_other_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"make setup.*serial, dp"):
        create("horovod", device="cpu")
