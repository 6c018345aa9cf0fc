"""What the environment says about several processes: a team, nothing, or a contradiction that is refused."""

import pytest

from mimsuite.errors import InputError
from mimsuite.settings import machine
from mimsuite.settings.machine import auto_workers
from mimsuite.settings.team import OWN, Team, check_alone, current_team, first_host, ignored_variables, node_rank

MEETING = {"MASTER_ADDR": "host", "MASTER_PORT": "29500"}
TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"} | MEETING
BATCH = {"SLURM_JOB_ID": "71234", "SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NNODES": "2"}
STEP = {
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-09,12],login",
}
ALL = {*TORCHRUN, *BATCH, *STEP, OWN, "NODE_RANK", "SLURM_CPUS_PER_TASK"}


@pytest.fixture
def environment(monkeypatch):
    """A function: the variables of several processes are these and no others."""

    def set_variables(variables):
        for name in ALL:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (TORCHRUN, Team(5, 4, 2, "host", 29500, "torchrun")),
        (TORCHRUN | {OWN: "17"}, Team(5, 4, 2, "host", 29500, "devices=")),
        (TORCHRUN | BATCH | STEP, Team(5, 4, 2, "host", 29500, "torchrun")),
        (BATCH | STEP, Team(9, 8, 2, "gpu07", 16234, "srun")),
        (BATCH | STEP | MEETING, Team(9, 8, 2, "host", 29500, "srun")),
        (BATCH | STEP | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (BATCH, None),
        ({"RANK": "1"}, None),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "1"}, None),
        ({"NODE_RANK": "1"}, None),
    ],
)
def test_the_environment_says_which_process_this_is(variables, expected, environment):
    environment(variables)
    assert current_team() == expected


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (TORCHRUN | {"RANK": "8"}, "RANK=8 LOCAL_RANK=1 WORLD_SIZE=8 LOCAL_WORLD_SIZE=4 contradict each other"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, "contradict each other; every machine needs the same number of processes"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "contradict each other"),
        (TORCHRUN | {"RANK": "one"}, "RANK=one in the environment is not a whole number of at least 0; unset it"),
        (STEP | {"SLURM_STEP_NUM_TASKS": "15"}, "srun started 15 tasks on 2 machines, not the same number on each"),
        (STEP | {"SLURM_LOCALID": "4"}, "use --ntasks-per-node= and --distribution=block"),
    ],
)
def test_what_contradicts_itself_is_refused(variables, message, environment):
    environment(variables)
    with pytest.raises(InputError, match=message):
        current_team()


def test_what_is_not_used_is_said(environment):
    environment({"NODE_RANK": "1"})
    assert ignored_variables(1) == ["NODE_RANK=1 is ignored: it counts with trainer.num_nodes above 1"]
    assert ignored_variables(2) == []
    environment({"RANK": "1"})
    assert ignored_variables(1) == [
        "RANK is ignored: LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set, so this process is alone"
    ]
    environment(TORCHRUN | {"NODE_RANK": "1"})
    assert ignored_variables(1) == []


def test_a_machine_among_several_says_which_it_is(environment):
    environment({"NODE_RANK": "7"})
    assert node_rank(1) == 0
    for variables, message in (
        ({}, "trainer.num_nodes=2, but NODE_RANK is not set"),
        ({"NODE_RANK": "1"}, "trainer.num_nodes=2, but MASTER_ADDR and MASTER_PORT not set"),
        ({"NODE_RANK": "2"} | MEETING, "trainer.num_nodes=2, but NODE_RANK=2 is not below it"),
    ):
        environment(variables)
        with pytest.raises(InputError, match=message):
            node_rank(2)
    environment({"NODE_RANK": "1"} | MEETING)
    assert node_rank(2) == 1


def test_half_a_set_of_variables_is_refused_unless_devices_are_given(environment):
    for variables, missing in (
        ({"WORLD_SIZE": "2"}, "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "1"} | MEETING, "LOCAL_RANK"),
    ):
        environment(variables)
        assert current_team() is None
        with pytest.raises(InputError, match=f"WORLD_SIZE=2 is set, but {missing} not: start the processes with"):
            check_alone(False)
        check_alone(True)


def test_a_batch_script_without_srun_is_refused_unless_devices_are_given(environment):
    environment(BATCH)
    with pytest.raises(InputError, match="SLURM has 16 tasks, but this was not started by srun; put srun before"):
        check_alone(False)
    check_alone(True)
    environment(BATCH | {"SLURM_NTASKS": "1"})
    check_alone(False)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        *(("gpu07", "gpu07"), ("a1,a2", "a1"), ("n[3,5-7]", "n3"), ("n[3-4]-ib,m1", "n3-ib")),
        *(("rack[1-2]node[03-04],m1", "rack1node03"), ("a[1,3]-b[2-4]-ib", "a1-b2-ib")),
    ],
)
def test_the_first_host_of_a_list_is_where_all_meet(hosts, first):
    assert first_host(hosts) == first


def test_processes_of_one_machine_share_its_cores(environment, monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 16)
    for variables, devices, workers in (
        ({}, None, 8),
        ({}, 4, 3),
        ({}, 32, 1),
        (TORCHRUN, None, 3),  # of 4 processes
        (STEP, None, 1),  # of 8
        (STEP | {"SLURM_CPUS_PER_TASK": "6"}, None, 5),  # SLURM has given each its own
        ({"SLURM_CPUS_PER_TASK": "16"} | TORCHRUN | {OWN: "17"}, None, 3),  # one task that started 4
    ):
        environment(variables)
        assert auto_workers(devices) == workers
