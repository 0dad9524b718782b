"""Records of one kind by name: one file each in a package, in other installed packages, or registered at run time."""

import contextlib
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class Registry(Generic[R]):
    """Finds records when they are first asked for; iterates over them in their order.

    Every module of the package holds one record under `attribute`. Another installed package adds its own with an entry
    point of the group that names a record:

        [project.entry-points."bat_jax.selections"]
        mine = "my_package.my_module:SELECTION"
    """

    def __init__(
        self,
        kind: type[R],
        *,
        noun: str,
        package: str,
        attribute: str,
        group: str,
        order: Callable[[R], Any],
    ):
        """Name where the records are; nothing is imported yet, so that this may stand below the package.

        Args:
          kind: the records' class, which has a `name` and may have `aliases`, which are read for it.
          noun: what errors call one, such as "selection".
          order: sort key of records.
        """
        self.kind, self.noun, self.package, self.attribute, self.group = kind, noun, package, attribute, group
        self.order = order
        self._found: dict[str, R] | None = None
        self._registered: dict[str, R] = {}

    def refresh(self) -> None:
        """Look again, at the next use, for what is installed."""
        self._found = None

    def register(self, record: R) -> R:
        """Add a record of a notebook or a test, and return it.

        Raises:
          ValueError: the name is taken. Programs are compiled for names, so a record is never replaced.
        """
        self._add(self._registered, record, "register", taken=self._all())
        return record

    @contextlib.contextmanager
    def added(self, record: R) -> Iterator[R]:
        """Register a record for the length of a `with` block."""
        self.register(record)
        try:
            yield record
        finally:
            del self._registered[_name(record)]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in order."""
        return tuple(_name(record) for record in self)

    def __iter__(self) -> Iterator[R]:
        return iter(sorted(self._all().values(), key=self.order))

    def __contains__(self, name: object) -> bool:
        return name in _by_every_name(self._all())

    def __getitem__(self, name: str) -> R:
        """Return a record.

        Raises:
          ValueError: there is none of this name; lists those that there are.
        """
        records = _by_every_name(self._all())
        if name not in records:
            raise ValueError(f"{self.noun}={name!r}: must be one of {', '.join(self.names)}")
        return records[name]

    def _all(self) -> dict[str, R]:
        if self._found is None:
            found: dict[str, R] = {}
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                place = f"{self.package}.{module.name}"
                self._add(found, getattr(importlib.import_module(place), self.attribute, None), place)
            for entry in importlib.metadata.entry_points(group=self.group):
                try:
                    record = entry.load()
                except Exception as error:  # whatever another package's import raises
                    raise ValueError(f"entry point {self.group}: {entry.name} = {entry.value}: {error}") from error
                self._add(found, record, f"entry point {self.group}: {entry.name} = {entry.value}")
            self._found = found
        return self._found | self._registered

    def _add(self, into: dict[str, R], record: Any, place: str, taken: dict[str, R] | None = None) -> None:
        if not isinstance(record, self.kind):
            raise ValueError(f"{place}: holds no {self.kind.__name__}, found {record!r}")
        taken = _by_every_name(into if taken is None else taken)
        for name in _by_every_name({_name(record): record}):
            if name in taken:
                raise ValueError(f"{place}: the {self.noun} {name!r} is there already")
        into[_name(record)] = record


def _name(record: Any) -> str:
    return record.name


def _by_every_name(records: dict[str, R]) -> dict[str, R]:
    """Return records by name and by alias."""
    return {alias: record for record in records.values() for alias in getattr(record, "aliases", ())} | records
