"""The checkpoints that are part of the project, by name: below checkpoints/, installed inside bat_jax."""

import pathlib

import bat_jax

MINI = "uhr-bat-mini"
_PACKAGE = pathlib.Path(bat_jax.__file__).parent
_PLACES = (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints")


def checkpoint_folder(checkpoint: str | pathlib.Path) -> pathlib.Path:
    """Return the folder of a shipped checkpoint that is named, else what was given; a folder goes first."""
    given = pathlib.Path(checkpoint)
    if str(given) != MINI or given.is_dir():
        return given
    return next((place / MINI for place in _PLACES if (place / MINI).is_dir()), given)
