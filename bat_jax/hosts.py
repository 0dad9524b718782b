"""Hosts that share a run's directory: they meet once, compare what they were started with, and say when they are done.

    share = meet("10.0.0.1:1234", num_hosts=2, index=0, facts=settings, timeout_s=300)
    with HostSign(directory, share, timeout_s=300) as sign:
        ...  # this host's part of the work
        sign.wait_for_others()

They meet through JAX's coordination service, in a process of its own: JAX ends a process whose meeting fails, and for
as long as hosts stay connected it ends all when one dies. Behind the meeting each host computes alone on its own
devices, as if there were no others. From then on they know of each other by files in the shared directory:

    DIR/.host-001-of-002.json    {"meeting": of this start, "state": "working", "done" or "stopped", "sign": a number}
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bat_jax.io.output_files import write_json
from bat_jax.runs import differing, shard_file

# So many signs are given in the time after which a host without one counts as missing.
_SIGNS_A_TIMEOUT = 20
_POLL_S = 0.2
_NAMED_AT_MOST = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostShare:
    """Which of the hosts, or of the processes that share a run, this is.

    Attributes:
      index: from 1. num_hosts: in all. meeting: the same on all hosts, another at every
        start; "" for processes that do not meet.
    """

    index: int
    num_hosts: int
    meeting: str


def meet(
    coordinator: str | None, num_hosts: int | None, index: int | None, facts: Mapping[str, Any], timeout_s: int
) -> HostShare:
    """Wait for all hosts and compare what each was started with.

    On a cluster that runs several processes a machine JAX uses from here on the devices that it gives this one.

    Args:
      coordinator: HOST:PORT at which the first host waits. num_hosts: in all. index: which this is (from 0). All
        three None: JAX finds them out on a cluster that it knows.
      facts: what has to be the same on all hosts, ready for JSON.
      timeout_s: how long to wait for the others.

    Raises:
      ValueError: not all hosts came, or their facts differ: names what.
    """
    request = {"places": [coordinator, num_hosts, index], "facts": facts, "timeout_s": timeout_s}
    done = subprocess.run(
        [sys.executable, "-m", "bat_jax.hosts"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise ValueError(f"--coordinator={coordinator or 'auto'}: {_reason(done.stderr, timeout_s)}") from None
    for number, other in enumerate(found["facts"], start=1):
        changes = list(differing(found["facts"][0], other))
        if changes:
            left = f"; and {len(changes) - _NAMED_AT_MOST} more" if len(changes) > _NAMED_AT_MOST else ""
            raise ValueError(f"hosts 1 and {number} differ ({'; '.join(changes[:_NAMED_AT_MOST])}{left})")
    for name, value in found["visible_devices"].items():
        jax.config.update(name, value)
    return HostShare(index=found["index"] + 1, num_hosts=found["num_hosts"], meeting=found["meeting"])


def _reason(stderr: str, timeout_s: int) -> str:
    """Return why the process that was to meet the others ended."""
    known = {
        "ALREADY_EXISTS": "another process came with the same --process_id",
        "INVALID_ARGUMENT: Unexpected task": "the first host was started with a smaller --num_processes",
        "DEADLINE_EXCEEDED": f"not all hosts came within {timeout_s} s",
        "coordinator_address should be defined": "JAX knows no cluster here; give HOST:PORT",
    }
    for mark, reason in known.items():
        if mark in stderr:
            return reason
    status = re.search(r"absl::Status: (.*)", stderr)
    return status[1] if status else [*stderr.strip().splitlines(), "the meeting ended without a word"][-1]


def _join(places: Sequence[Any], facts: dict[str, Any], timeout_s: int) -> dict[str, Any]:
    """Enter JAX's coordination service, give this host's facts, read those of all hosts, and leave it."""
    from jax._src import distributed  # the service's key-value store has no public name that works without devices

    jax.distributed.initialize(
        **dict(zip(("coordinator_address", "num_processes", "process_id"), places, strict=True)),
        initialization_timeout=timeout_s,
        shutdown_timeout_seconds=timeout_s,
        heartbeat_timeout_seconds=max(timeout_s, 10),
    )
    state = distributed.global_state
    client: Any = state.client
    own = {"facts": {"num_processes": state.num_processes, **facts}, "meeting": str(uuid.uuid4())}
    client.key_value_set_bytes(f"host/{state.process_id}", zlib.compress(json.dumps(own).encode()))

    def read(number: int) -> dict[str, Any]:
        raw = client.blocking_key_value_get_bytes(f"host/{number}", timeout_s * 1000)
        return json.loads(zlib.decompress(raw))

    # Where the first host counts fewer, this one would wait for others that do not come.
    first = read(0)
    others = range(1, first["facts"]["num_processes"])
    found = [first["facts"], *(read(number)["facts"] for number in others)]
    names = ("jax_cuda_visible_devices", "jax_rocm_visible_devices")
    jax.distributed.shutdown()
    return {
        "index": state.process_id,
        "num_hosts": state.num_processes,
        "meeting": first["meeting"],
        "facts": found,
        "visible_devices": {name: jax.config.values[name] for name in names},
    }


class HostSign:
    """This host's file in the shared directory, written anew all the time; leaving the context stops that."""

    def __init__(self, directory: pathlib.Path, share: HostShare, timeout_s: float):
        """Keep the names; entering the context gives the first sign.

        Args:
          directory: that all hosts see.
          timeout_s: a host that gives no sign for so long is missing.
        """
        self._directory, self._share, self._timeout_s = directory, share, timeout_s
        self._state, self._sign = "working", 0
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_on, daemon=True)

    def _file(self, index: int) -> pathlib.Path:
        return self._directory / shard_file(".host", ".json", index, self._share.num_hosts)

    def _give(self, state: str | None = None) -> None:
        with self._lock:
            self._state, self._sign = state or self._state, self._sign + 1
            content = {"meeting": self._share.meeting, "state": self._state, "sign": self._sign}
            with contextlib.suppress(OSError):  # the next sign may find room on the disk
                write_json(self._file(self._share.index), content)

    def _keep_on(self) -> None:
        while not self._ended.wait(self._timeout_s / _SIGNS_A_TIMEOUT):
            self._give()

    def __enter__(self) -> "HostSign":
        self._give()
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if kind is not None and self._state == "working":
            self._give("stopped")

    def _read(self, index: int) -> dict[str, Any]:
        """Return a host's sign at this meeting, or nothing."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._file(index).read_text())
            if found["meeting"] == self._share.meeting:
                return found
        return {"state": "unseen"}

    def wait_for_others(self) -> None:
        """Say that this host's part is done, and return when all are.

        Raises:
          ValueError: a host stopped or gave no sign for too long; names all of them once the others are done.
        """
        self._give("done")
        others = [index for index in range(1, self._share.num_hosts + 1) if index != self._share.index]
        last: dict[int, tuple[dict[str, Any], float]] = {}
        waiting, missing = others, []
        while waiting:
            now = time.monotonic()
            for index in waiting:
                sign = self._read(index)
                if index not in last or last[index][0] != sign:
                    last[index] = (sign, now)
                if sign["state"] == "stopped" or (sign["state"] != "done" and now - last[index][1] > self._timeout_s):
                    missing.append(index)
            waiting = [index for index in waiting if last[index][0]["state"] != "done" and index not in missing]
            self._ended.wait(_POLL_S if waiting else 0)
        if missing:
            names = ", ".join(map(str, sorted(missing)))
            raise ValueError(
                f"{self._directory}: missing hosts, of {self._share.num_hosts}: {names} (ended, or no sign of life "
                f"for {self._timeout_s:g} s); all that was written is kept, the same command on all hosts goes on"
            )


if __name__ == "__main__":
    print(json.dumps(_join(**json.load(sys.stdin))))
