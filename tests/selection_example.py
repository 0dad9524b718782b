"""The selection that CONTRIBUTING.md adds as an example, as a record and as a distribution that is installed."""

import pathlib

GUIDE = pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md"
NAME, TITLE = "first", "first tokens"


def source():
    """Return the example's file."""
    return GUIDE.read_text().partition("## A selection")[2].partition("```python\n")[2].partition("```")[0]


def record():
    """Return the example's record."""
    names = {}
    exec(compile(source(), str(GUIDE), "exec"), names)
    return names["SELECTION"]


def install(folder):
    """Write the example into a folder as pip would install it; on the path, it is found."""
    meta = folder / "first_tokens-1.0.dist-info"
    meta.mkdir(parents=True)
    (folder / "first_tokens.py").write_text(source())
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: first-tokens\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[bat_jax.selections]\nfirst = first_tokens:SELECTION\n")
