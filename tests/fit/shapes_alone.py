"""Programs that are not compiled, for tests of what is run and what is held."""

import functools

import jax

from bat_jax.engine.absent import placed
from bat_jax.fit.abstract_run import ProgramMemory, Programs

UNKNOWN = ProgramMemory(arguments=0, outputs=0, temporaries=0)


class ShapesAlone(Programs):
    """Traces: results have their shapes, whole on every device; memory is not known and counts as none."""

    def find(self, name, mesh, function, static, args, options):
        return UNKNOWN, placed(mesh, jax.eval_shape(functools.partial(function, *static), *args))


class NothingRuns(Programs):
    """Does not even trace: there are no results."""

    def find(self, name, mesh, function, static, args, options):
        return UNKNOWN, ()
