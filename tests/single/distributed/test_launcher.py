"""Which launcher started this process, and which backend fits it: from environments as launchers set them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch

from horovod_asl.distributed import launcher as launcher_module
from horovod_asl.distributed.base import Serial
from horovod_asl.distributed.create import choose, create
from horovod_asl.distributed.launcher import Launcher, announced_rank, detect
from horovod_asl.errors import UserError

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


# -- RANK, WORLD_SIZE and MASTER_ADDR set by something other than torchrun -------------------------------------

KUBEFLOW = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}


def test_without_local_variables_each_rank_is_alone_until_hosts_are_compared() -> None:
    """One pod per rank, as Kubeflow and Vertex AI start them: rank 5 has no sixth GPU to take."""
    assert detect(KUBEFLOW) == Launcher("torchrun", 5, 8, local_rank=0, local_size=1, knows_local=False)
    assert detect(KUBEFLOW | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}) == rank_5_of_8("torchrun")


def test_an_mpi_that_agrees_tells_the_local_rank() -> None:
    assert detect(KUBEFLOW | OPEN_MPI) == rank_5_of_8("torchrun")


MEETING_POINT = {"MASTER_ADDR": "n1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("pmi", [{}, PMIX, PMI2])
@pytest.mark.parametrize(
    "exported",
    [
        {"WORLD_SIZE": "8"},
        {"WORLD_SIZE": "8", "RANK": "5"},
        {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1"},
        {"RANK": "5"},
    ],
)
def test_srun_with_torch_s_variables_exported_is_ddp(exported: dict[str, str], pmi: dict[str, str]) -> None:
    """`export WORLD_SIZE=… MASTER_ADDR=… MASTER_PORT=…; srun python train.py`, and what else sites teach."""
    launcher = detect(SRUN | pmi | MEETING_POINT | exported)
    assert launcher == rank_5_of_8("srun")
    assert choose("auto", launcher, gpu_count=0) == "ddp"
    assert announced_rank(SRUN | MEETING_POINT | exported) == "5"


@pytest.mark.parametrize("exported", [{"WORLD_SIZE": "4"}, {"WORLD_SIZE": "32", "RANK": "5"}])
def test_a_world_that_is_not_the_step_s_is_refused(exported: dict[str, str]) -> None:
    with pytest.raises(
        UserError, match=r"WORLD_SIZE=\d+, but srun started 8 processes.*WORLD_SIZE=\$SLURM_NTASKS"
    ):
        detect(SRUN | MEETING_POINT | exported)


def test_a_rank_that_the_batch_script_exported_for_all_tasks_is_refused() -> None:
    """`export RANK=$SLURM_PROCID` in the script is 0 in every task."""
    with pytest.raises(UserError, match=r"RANK=0, but this is task 5 of srun's 8.*leave it out"):
        detect(SRUN | MEETING_POINT | {"WORLD_SIZE": "8", "RANK": "0"})
    with pytest.raises(UserError, match="half-set"):
        detect(SRUN | {"RANK": "0"})


def test_outside_of_a_step_the_exported_world_asks_for_srun() -> None:
    with pytest.raises(UserError, match=r"half-set.*start through srun"):
        detect(BATCH | MEETING_POINT | {"WORLD_SIZE": "8"})


def test_ranks_started_by_hand_in_the_shell_of_one_task() -> None:
    shell = SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert detect(shell | KUBEFLOW).rank == 5


def test_a_world_of_one_needs_no_launcher() -> None:
    for environment in ({"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}):
        assert detect(environment) == NONE
    for size in ("2", "8"):
        with pytest.raises(UserError, match="half-set"):
            detect({"WORLD_SIZE": size})
    with pytest.raises(UserError, match="WORLD_SIZE=1, but mpirun started 8 processes"):
        detect(OPEN_MPI | {"WORLD_SIZE": "1"})  # a leftover in the shell


# -- one launcher inside another -----------------------------------------------------------------------------

# The second of two mpiruns' processes, each a torchrun of four workers.
INSIDE = TORCHRUN | {"TORCHELASTIC_RUN_ID": "job", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"}
ONE_PER_NODE = {
    "mpirun": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1"},
    "mpiexec": {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"},
    "srun": {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"},
}


@pytest.mark.parametrize("outer", ONE_PER_NODE)
def test_a_torchrun_per_node_under_another_launcher_wins(outer: str) -> None:
    assert detect(ONE_PER_NODE[outer] | INSIDE) == rank_5_of_8("torchrun")


@pytest.mark.parametrize("outer", ONE_PER_NODE)
def test_torchruns_that_do_not_know_of_each_other_are_refused(outer: str) -> None:
    with pytest.raises(UserError, match="separate models; give torchrun --nnodes 2"):
        detect(ONE_PER_NODE[outer] | INSIDE | {"GROUP_WORLD_SIZE": "1", "GROUP_RANK": "0"})


def test_one_torchrun_in_the_shell_of_a_step_is_no_other_s() -> None:
    shell = ONE_PER_NODE["srun"] | {"SLURM_PTY_PORT": "40000"}
    assert detect(shell | INSIDE | {"GROUP_WORLD_SIZE": "1", "GROUP_RANK": "0"}) == rank_5_of_8("torchrun")


# -- other MPIs' launchers -----------------------------------------------------------------------------------

OTHER_MPIS = {
    "mpirun_rsh": {
        "MV2_COMM_WORLD_RANK": "5",
        "MV2_COMM_WORLD_SIZE": "8",
        "MV2_COMM_WORLD_LOCAL_RANK": "1",
        "MV2_COMM_WORLD_LOCAL_SIZE": "4",
    },
    "jsrun": {
        "JSM_NAMESPACE_RANK": "5",
        "JSM_NAMESPACE_SIZE": "8",
        "JSM_NAMESPACE_LOCAL_RANK": "1",
        "JSM_NAMESPACE_LOCAL_SIZE": "4",
        "PMIX_RANK": "5",
    },
    "mpiexec (PALS)": {
        "PALS_RANKID": "5",
        "PALS_LOCAL_RANKID": "1",
        "PALS_LOCAL_SIZE": "4",
        "PMI_RANK": "5",
        "PMI_SIZE": "8",
    },
}


@pytest.mark.parametrize("name", OTHER_MPIS)
def test_other_mpis_ranks_are_horovod_s_or_nobody_s(name: str) -> None:
    """Horovod holds its own world against this one, so that an MPI that it was not built with is refused."""
    launcher = detect(OTHER_MPIS[name])
    assert launcher == rank_5_of_8(name)
    assert choose("auto", launcher, gpu_count=4) == "horovod"
    assert announced_rank(OTHER_MPIS[name]) == "5"
    for backend in ("serial", "dp", "ddp"):
        with pytest.raises(UserError, match=f"--backend {backend}"):
            choose(backend, launcher, gpu_count=0)


def test_flux_says_where_a_rank_is() -> None:
    launcher = detect({"FLUX_TASK_RANK": "5", "FLUX_JOB_SIZE": "8", "FLUX_TASK_LOCAL_ID": "1"})
    assert (launcher.name, launcher.rank, launcher.world_size, launcher.local_rank) == ("flux run", 5, 8, 1)


@pytest.mark.parametrize("name", ["PMIX_RANK", "ALPS_APP_PE", "PALS_RANKID"])
def test_a_rank_of_an_unknown_number_is_refused(name: str) -> None:
    for rank in ("0", "5"):
        with pytest.raises(UserError, match=rf"\({name}={rank}\) .*start with mpirun.*unset {name}"):
            detect({name: rank})
    assert announced_rank({name: "5"}) == "5"
    assert detect(KUBEFLOW | {name: "5"}).world_size == 8  # what the user says of them goes


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


ONE_OF_MPI = [
    {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0"},
    {"PMI_RANK": "0", "PMI_SIZE": "1"},
    {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"},
    {"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "1"},
    {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "WORLD_SIZE": "1"},
]


@pytest.mark.parametrize("environment", ONE_OF_MPI)
@pytest.mark.parametrize(("horovod", "expected"), [(object(), "horovod"), (None, "serial")])
def test_a_single_rank_of_mpi_needs_no_horovod(
    environment: dict[str, str], horovod: object, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mpirun -np 1`, or a notebook on a cluster; where Horovod is installed it is the launcher's backend."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: horovod)
    assert choose("auto", detect(environment), gpu_count=0) == expected
    assert choose("serial", detect(environment), gpu_count=0) == "serial"


def test_auto_keeps_torchrun_s_backend_for_a_single_rank() -> None:
    environment = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    assert choose("auto", detect(environment), gpu_count=0) == "ddp"


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
    known = (launcher_module._TORCHRUN, *launcher_module._MPI)
    for names in (*known, launcher_module._MPICH, launcher_module._SRUN):
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
    monkeypatch.setattr(
        "horovod_asl.distributed.create._construct", lambda name, *rest: Serial(torch.device("cpu"))
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(UserError, match="started 2 processes but serial sees 1"):
        create("auto", device="cpu")


@pytest.mark.usefixtures("alone")
def test_without_horovod_the_remedy_names_the_other_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"make setup.*serial, dp"):
        create("horovod", device="cpu")
