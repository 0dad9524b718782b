"""Compiles each stage of the model once per shape and keeps compile time, run time and counts apart."""

import collections
import contextlib
import functools
import os
import pathlib
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent import futures
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class OutOfMemoryError(ValueError):
    """A program needs more memory than there is; the message says what asks for it and what to do."""


@contextlib.contextmanager
def memory_advice(asks: str, advice: str) -> Iterator[None]:
    """Turn XLA's error of a full device, and that of a program too large for the host, into one line.

    Args:
      asks: what needs the memory. advice: what to do.

    Raises:
      OutOfMemoryError: with all of it.
    """
    try:
        yield
    except (OutOfMemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("RESOURCE_EXHAUSTED: ")[2] or str(error)
        raise OutOfMemoryError(f"out of memory with {asks}: {advice} ({(reason.splitlines() or [''])[0]})") from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory does not suffice."""
    is_ours = isinstance(error, OutOfMemoryError | MemoryError)
    return is_ours or (isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error))


class Stages:
    """Runs pure functions under jit, ahead-of-time compiled, with clocks that stop only when the device is done.

    Threads may share it: a program that two of them want is compiled by one, and each has clocks of its own.

    Attributes:
      mesh: devices that programs run on (`engine.mesh`), None for one.
      num_calls, num_compiles: per stage name; a program that JAX has compiled for another object counts as well.
      run_seconds, compile_seconds: sums per stage name since this thread's last `reset_clocks`.
    """

    def __init__(self, mesh: Mesh | None = None) -> None:
        self.mesh = mesh
        self.num_calls: collections.Counter[str] = collections.Counter()
        self.num_compiles: collections.Counter[str] = collections.Counter()
        self._clocks = _Clocks()
        self._executables: dict[Hashable, futures.Future[Any]] = {}
        self._lock = threading.Lock()

    @property
    def run_seconds(self) -> dict[str, float]:
        return self._clocks.run

    @property
    def compile_seconds(self) -> dict[str, float]:
        return self._clocks.compile

    def reset_clocks(self) -> None:
        """Set the sums of seconds to zero; counts and executables stay."""
        self.run_seconds.clear()
        self.compile_seconds.clear()

    @property
    def num_devices(self) -> int:
        return self.mesh.size if self.mesh else 1

    def put(self, tree: Any, place: Callable[[Mesh, Any], Any] | None = None) -> Any:
        """Return host arrays as a program takes them: on a mesh where `place` says, or whole on every device."""
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.device_put(tree, place(self.mesh, tree) if place else NamedSharding(self.mesh, PartitionSpec()))

    def run(self, name: str, function: Callable[..., Any], static: tuple[Hashable, ...], *args: Any) -> Any:
        """Return function(*static, *args), compiled for the shapes of `args`.

        Args:
          static: leading arguments that the program is specialised to.
          args: pytrees of arrays.
        """
        executable = self.compile(name, function, static, *args)
        start = time.perf_counter()
        result = jax.block_until_ready(executable(*args))
        self.run_seconds[name] += time.perf_counter() - start
        with self._lock:
            self.num_calls[name] += 1
        return result

    def compile(self, name: str, function: Callable[..., Any], static: tuple[Hashable, ...], *args: Any) -> Any:
        """Return the program that `run` would call with arguments such as these."""
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
        signature = (name, function, static, structure, shapes)
        with self._lock:
            is_first = signature not in self._executables
            program = self._executables.setdefault(signature, futures.Future())
        start = time.perf_counter()
        if is_first:
            try:
                # JAX remembers programs by function, so that another model of this process finds them.
                jitted = jax.jit(function, static_argnums=tuple(range(len(static))))
                with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh) if self.mesh else contextlib.nullcontext():
                    compiled = jitted.lower(*static, *args).compile()
                _check_host_memory(name, compiled)
                program.set_result(compiled)
            except BaseException as error:
                program.set_exception(error)
                with self._lock:
                    del self._executables[signature]
                raise
            with self._lock:
                self.num_compiles[name] += 1
        was_done = program.done() and not is_first
        result = program.result()
        if not was_done:
            self.compile_seconds[name] += time.perf_counter() - start
        return result


class _Clocks(threading.local):
    """A thread's sums of seconds by stage."""

    def __init__(self) -> None:
        self.run: dict[str, float] = collections.defaultdict(float)
        self.compile: dict[str, float] = collections.defaultdict(float)


def _check_host_memory(name: str, compiled: Any) -> None:
    """Refuse a program that the host can never hold, where it is the device: the system would kill the process."""
    needs = compiled.memory_analysis() if jax.default_backend() == "cpu" else None
    if needs is None:
        return
    num_bytes = needs.temp_size_in_bytes + needs.output_size_in_bytes
    if num_bytes > host_memory_bytes():
        sizes = f"{num_bytes / 1e9:.1f} GB, the machine has {host_memory_bytes() / 1e9:.1f} GB"
        raise OutOfMemoryError(f"the program {name!r} needs {sizes}")


@functools.cache
def host_memory_bytes() -> int:
    """Return this machine's memory, or what its control group lets a process have of it."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        limit = min(limit, int(pathlib.Path("/sys/fs/cgroup/memory.max").read_text()))
    return limit


def peak_host_bytes() -> int:
    """Return this process's largest resident memory so far."""
    # Of a process that another one started, getrusage counts what that one held.
    with contextlib.suppress(OSError):
        status = pathlib.Path("/proc/self/status").read_text()
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE):
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB, macOS in bytes


def peak_device_bytes() -> int | None:
    """Return the device's peak memory since the process began, or None where the backend does not count it (CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    return stats.get("peak_bytes_in_use") if stats else None
