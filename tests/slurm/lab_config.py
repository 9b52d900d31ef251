"""The configuration of a private Slurm, as texts: pure. See ``lab`` for what runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NODES_AT, SRUN_AT, PORTS = 10, 100, 300
"""Offsets from the base port: slurmctld 0, slurmdbd 1, slurmd from 10, srun from 100."""


@dataclass(frozen=True)
class Nodes:
    """``count`` nodes called ``<type>-<k>`` with ``gpus`` fake GPUs each, in one partition."""

    type: str
    count: int
    gpus: int

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        return [f"{self.type}-{k}" for k in range(1, self.count + 1)]

    @property
    def partition(self) -> str:
        """The partition that holds them."""
        return f"gpu-{self.type}"


@dataclass(frozen=True)
class LabConfig:
    """What may differ from lab to lab; times in seconds, memory in MB."""

    nodes: tuple[Nodes, ...] = (Nodes("h100", 2, 4), Nodes("h200", 1, 4), Nodes("a100", 2, 2))
    cpus: int = 16
    memory_mb: int = 16000
    max_array_size: int = 1001
    min_job_age: int = 300
    slurmd_timeout: int = 10
    cred_expire: int = 15
    kill_wait: int = 2
    auth: str = "munge"
    kill_over_memory: bool = True
    """Slurm samples memory once a second and ends a step that has taken more than it asked for."""
    prolog: bool = False
    """A prolog that fails on a node as long as ``bad-<node>`` is in the lab's folder."""
    cgroup: str = ""
    """``cgroup/v1`` (root only, tried on no other): the kernel ends what takes too much instead."""

    @property
    def node_names(self) -> list[str]:
        """All nodes, in the order of their ports."""
        return [name for nodes in self.nodes for name in nodes.names]


ACCOUNTING = (
    """\
add qos bench Priority=10
add qos tiny MaxSubmitJobsPerUser=3
add qos tinydeny MaxTRESPerUser=gres/gpu=2 Flags=DenyOnLimit
add qos two MaxJobsPerUser=2
add qos scavenge PreemptMode=cancel
add qos scavenge-requeue PreemptMode=requeue
add account perf Description=perf Organization=lab
add user {user} Account=perf DefaultAccount=perf
""",
    "add qos urgent Priority=1000 Preempt=scavenge,scavenge-requeue\n",
    "modify user {user} where account=perf set defaultqos=normal "
    "qos=normal,bench,two,tiny,tinydeny,scavenge,scavenge-requeue,urgent\n",
)
"""Commands of one sacctmgr each: it reads the QOSes that others may name when it starts."""


def slurm_conf(config: LabConfig, folder: Path, port: int, host: str, user: str) -> str:
    """slurm.conf: everything on loopback, several slurmd on one host."""
    munge = config.auth == "munge"
    expire = f"cred_expire={config.cred_expire}"
    tracking, tasks = ("cgroup", "cgroup") if config.cgroup else ("linuxproc", "none")
    enforce = config.kill_over_memory and not config.cgroup
    types = ",".join(f"gres/gpu:{nodes.type}" for nodes in config.nodes)
    lines = f"""\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/{config.auth}
CredType=cred/{config.auth}
AuthInfo={f"socket={folder}/munge.sock," if munge else ""}{expire}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/spool/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ReturnToService=2
{f"Prolog={folder}/prolog" if config.prolog else ""}
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/{tracking}
TaskPlugin=task/{tasks}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
{"JobAcctGatherParams=OverMemoryKill" if enforce else ""}
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port + 1}
{f"AccountingStoragePass={folder}/munge.sock" if munge else ""}
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu,{types}
AccountingStoreFlags=job_comment
JobRequeue=1
FirstJobId=1
MaxArraySize={config.max_array_size}
MaxJobCount=20000
MinJobAge={config.min_job_age}
KillWait={config.kill_wait}
SlurmdTimeout={config.slurmd_timeout}
SlurmctldTimeout=10
InactiveLimit=0
BatchStartTimeout=10
MessageTimeout=10
UnkillableStepTimeout=20
CompleteWait=0
SrunPortRange={port + SRUN_AT}-{port + PORTS - 1}
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=0,batch_sched_delay=0,preempt_youngest_first
PriorityType=priority/multifactor
PriorityWeightQOS=1000
PreemptType=preempt/qos
PreemptMode=REQUEUE
"""
    at = port + NODES_AT
    for nodes in config.nodes:
        for name in nodes.names:
            lines += (
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={at} "
                f"CPUs={config.cpus} Sockets=1 CoresPerSocket={config.cpus} ThreadsPerCore=1 "
                f"RealMemory={config.memory_mb} Gres=gpu:{nodes.type}:{nodes.gpus} "
                f"Feature={nodes.type} State=UNKNOWN\n"
            )
            at += 1
        lines += (
            f"PartitionName={nodes.partition} Nodes={','.join(nodes.names)} MaxTime=1-0 "
            f"DefaultTime=10 DefMemPerCPU=500 State=UP Default="
            f"{'YES' if nodes is config.nodes[0] else 'NO'}\n"
        )
    return lines


def gres_conf(config: LabConfig, folder: Path) -> str:
    """gres.conf: character devices play the GPUs, so that CUDA_VISIBLE_DEVICES is set."""
    return "".join(
        f"NodeName={name} Name=gpu Type={nodes.type} File={folder}/dev/nvidia[0-{nodes.gpus - 1}]\n"
        for nodes in config.nodes
        for name in nodes.names
    )


def slurmdbd_conf(config: LabConfig, folder: Path, port: int, host: str, user: str) -> str:
    """slurmdbd.conf: the database is reached through a socket that MYSQL_UNIX_PORT names."""
    munge = config.auth == "munge"
    return f"""\
AuthType=auth/{config.auth}
{f"AuthInfo=socket={folder}/munge.sock" if munge else ""}
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port + 1}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct
"""


def cgroup_conf(config: LabConfig) -> str:
    """cgroup.conf: memory alone is held to what a job asked for."""
    return f"""\
CgroupPlugin={config.cgroup}
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
AllowedRAMSpace=100
ConstrainSwapSpace=no
ConstrainCores=no
ConstrainDevices=no
"""
