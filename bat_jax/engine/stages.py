"""Compiles each stage of the model once per shape and keeps compile time, run time and counts apart."""

import collections
import contextlib
import resource
import sys
import threading
import time
from collections.abc import Callable, Hashable
from concurrent import futures
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


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

    def put(self, tree: Any) -> Any:
        """Return host arrays as a program takes them: whole on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()) if self.mesh else None)

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
                    program.set_result(jitted.lower(*static, *args).compile())
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


def peak_host_bytes() -> int:
    """Return this process's largest resident memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB, macOS in bytes


def peak_device_bytes() -> int | None:
    """Return the device's peak memory since the process began, or None where the backend does not count it (CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    return stats.get("peak_bytes_in_use") if stats else None
