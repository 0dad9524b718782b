"""The selection that docs/compressors.md adds as an example, as a record and as a distribution that is installed."""

import pathlib

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "compressors.md"
NAME, TITLE = "first", "first tokens"


def source():
    """Return the example's file."""
    return DOCS.read_text().partition("### Adding one")[2].partition("```python\n")[2].partition("```")[0]


def record():
    """Return the example's record."""
    names = {}
    exec(compile(source(), "docs/compressors.md", "exec"), names)
    return names["SELECTION"]


def install(folder):
    """Write the example into a folder as pip would install it; on the path, it is found."""
    meta = folder / "first_tokens-1.0.dist-info"
    meta.mkdir(parents=True)
    (folder / "first_tokens.py").write_text(source())
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: first-tokens\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[bat_jax.selections]\nfirst = first_tokens:SELECTION\n")
