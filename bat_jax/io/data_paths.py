"""Files that data names: whether they stand where data may name them."""

import pathlib


def leads_out(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Return whether a path stands outside of a folder, wherever "..", an absolute name or a symbolic link leads."""
    return not path.resolve().is_relative_to(folder.resolve())
