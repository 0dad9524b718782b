"""Runs a path without computing anything: every stage is compiled for absent devices, and what is held is counted.

    run = AbstractRun(absent_mesh("h200"), Programs())
    params = run.hold(params)                         # shapes
    with run.scope():
        cache = run.stage("anchor_prefix", bat.anchor_cache, (cfg,), params, ids, tokens, valid)
    run.rows["anchor_prefix"].peak

A leaf is held from `hold`, or from the stage that made it, until the end of the `scope` around that. A stage's peak is
all that is held then, with its results, its temporaries, and arguments that come from the host.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from bat_jax.engine.absent import compile_for, placed, results_of

_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMGT]?) of")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramMemory:
    """A compiled program's memory in bytes a device.

    aliased: results written into arguments that are given away. whole: all of it, where a compiler refused a program
    that is too large for the device and named nothing else, and None otherwise.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int = 0
    whole: int | None = None


@dataclasses.dataclass(kw_only=True)
class StageRow:
    """What is known of a stage, in bytes a device; of the call with the highest peak where there are several.

    held: before it. peak: while it runs.
    """

    name: str
    calls: int = 0
    arguments: int = 0
    outputs: int = 0
    temporaries: int = 0
    held: int = 0
    peak: int = 0


class Programs:
    """Compiled programs' memory and results, kept by function, shapes and places: each is compiled once."""

    def __init__(self, said: Callable[[str], None] = lambda name: None):
        """`said` is told the name of every stage that is about to be compiled."""
        self._said = said
        self._known: dict[Hashable, tuple[ProgramMemory, Any]] = {}

    def find(
        self, name: str, mesh: Mesh, function: Callable[..., Any], static: tuple[Hashable, ...], args: Any, options: Any
    ) -> tuple[ProgramMemory, Any]:
        """Return (memory, results' shapes) of function(*static, *args); `options`: of `compile_for`."""
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
        key = (function, static, structure, shapes, mesh)
        if key not in self._known:
            self._said(name)
            self._known[key] = _compiled(mesh, function, static, args, options)
        return self._known[key]


def _compiled(mesh, function, static, args, options) -> tuple[ProgramMemory, Any]:
    try:
        program = compile_for(mesh, function, *args, static=static, **options)
    except ValueError as error:  # the program's whole text stands behind the first line
        raise ValueError(f"XLA cannot compile this for the mesh: {str(error).splitlines()[0][:300]}") from error
    except jax.errors.JaxRuntimeError as error:
        found = _OUT_OF_MEMORY.search(str(error))
        if found is None:
            raise
        whole = int(float(found[1]) * _UNITS[found[2]])
        return ProgramMemory(arguments=0, outputs=0, temporaries=0, whole=whole), placed(
            mesh, jax.eval_shape(functools.partial(function, *static), *args)
        )
    memory: Any = program.memory_analysis()
    return ProgramMemory(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
    ), results_of(program)


class AbstractRun:
    """One path on one mesh.

    Attributes:
      rows: by the stage's name, in the order of their first calls.
    """

    def __init__(self, mesh: Mesh, programs: Programs):
        self.mesh = mesh
        self.rows: dict[str, StageRow] = {}
        self._programs = programs
        self._held: dict[int, Any] = {}

    @property
    def held(self) -> int:
        """Bytes a device that are held now."""
        return sum(map(bytes_of, self._held.values()))

    @property
    def peak(self) -> StageRow:
        """The row of the stage that needs most."""
        return max(self.rows.values(), key=lambda row: row.peak)

    def hold(self, tree: Any) -> Any:
        """Return a tree's shapes on the mesh, held from now on; leaves without a sharding are whole on every device."""
        tree = placed(self.mesh, tree)
        self._held.update((id(leaf), leaf) for leaf in jax.tree.leaves(tree))
        return tree

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Let go, at the end, of all that is held from the beginning on."""
        before = dict(self._held)
        yield
        self._held = before

    def stage(
        self, name: str, function: Callable[..., Any], static: tuple[Hashable, ...], *args: Any, **options: Any
    ) -> Any:
        """Return the shapes of function(*static, *args), which are held from now on.

        Args:
          args: results of other stages, what `hold` gave, or anything else with shape and dtype: from the host.
          options: of `compile_for`, always the same for one function.
        """
        given = [leaf for leaf in jax.tree.leaves(args) if id(leaf) not in self._held]
        memory, results = self._programs.find(name, self.mesh, function, static, args, options)
        before = self.held
        from_host = sum(map(bytes_of, given))
        own = memory.outputs + memory.temporaries - memory.aliased
        if memory.whole is not None:
            own = memory.whole - sum(map(bytes_of, jax.tree.leaves(args)))
        row = self.rows.setdefault(name, StageRow(name=name))
        row.calls += 1
        if before + from_host + own > row.peak:
            row.arguments, row.outputs, row.temporaries = memory.arguments, memory.outputs, memory.temporaries
            row.held, row.peak = before, before + from_host + own
        # Copies, so that two calls of one program give results of their own.
        return self.hold(jax.tree.map(lambda leaf: leaf.update(), results))


def bytes_of(leaf: Any) -> int:
    """Return the bytes of an array, or of its part on one device where it has a sharding."""
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize
