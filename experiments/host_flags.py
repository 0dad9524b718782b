"""The flags of commands that run on several hosts: how the processes find each other."""

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from bat_jax.hosts import HostShare, HostSign, meet

AUTO = "auto"

COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    f"For several hosts: HOST:PORT of process 0, or {AUTO} where JAX knows the cluster (Cloud TPU, Slurm, Open MPI, "
    "Kubernetes), which then counts the processes.",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", 1, "Processes in all, one a host.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", 0, "Number of this process, from 0.", lower_bound=0)
HOST_TIMEOUT = flags.DEFINE_integer(
    "host_timeout", 300, "Seconds after which a host that does not come or gives no sign is missing.", lower_bound=1
)


def has_hosts() -> bool:
    """Return whether the flags ask for several hosts.

    Raises:
      ValueError: they do not fit each other.
    """
    if COORDINATOR.value == AUTO:
        for flag in (NUM_PROCESSES, PROCESS_ID):
            if flag.present:
                raise ValueError(f"--{flag.name}: --coordinator={AUTO} knows it; leave it out")
        return True
    if not COORDINATOR.value:
        for flag in (NUM_PROCESSES, PROCESS_ID):
            if flag.value != flag.default:
                raise ValueError(f"--{flag.name}: several hosts need --coordinator=HOST:PORT")
        return False
    if not COORDINATOR.value.rpartition(":")[2].isdecimal():
        raise ValueError(f"--coordinator={COORDINATOR.value}: write HOST:PORT or {AUTO}")
    if not PROCESS_ID.value < NUM_PROCESSES.value:
        raise ValueError(f"--process_id={PROCESS_ID.value}: must be below --num_processes={NUM_PROCESSES.value}")
    return NUM_PROCESSES.value > 1


def places() -> tuple[str | None, int | None, int | None]:
    """Return what jax.distributed.initialize takes first: address, processes, number; None each where JAX finds out."""
    if COORDINATOR.value == AUTO:
        return None, None, None
    return COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value


def host_share(facts: Mapping[str, Any]) -> HostShare:
    """Return which of the hosts this is, after all have met and compared facts; the first of one without others.

    Raises:
      ValueError: flags do not fit each other, a host does not come, or one was started with other facts.
    """
    if not has_hosts():
        return HostShare(index=1, num_hosts=1, meeting="")
    return meet(*places(), facts, HOST_TIMEOUT.value)


def host_sign(directory: pathlib.Path, share: HostShare) -> contextlib.AbstractContextManager[HostSign | None]:
    """Return the context in which this host gives signs of life; of nothing where it did not meet others."""
    return HostSign(directory, share, HOST_TIMEOUT.value) if share.meeting else contextlib.nullcontext()
