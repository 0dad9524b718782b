"""What the documentation lists is what there is."""

import pathlib
import re

from experiments.__main__ import commands

ROOT = pathlib.Path(__file__).parents[1]


def test_the_page_of_commands_has_a_row_for_each_and_no_other():
    rows = re.findall(r"^\| `bat-jax (\w+)", (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == set(commands())


def test_every_page_of_the_documentation_has_a_place_in_its_navigation():
    """Links between pages are checked where the site is built (make site)."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = {
        path.relative_to(ROOT).as_posix() for suffix in ("md", "ipynb") for path in ROOT.glob(f"docs/**/*.{suffix}")
    }
    assert len(pages) > 20 and pages - set(re.findall(r"docs/[\w/]+\.\w+", navigation)) == set()
