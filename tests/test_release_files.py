"""The version stands in four files and says the same."""

import pathlib
import re
import tomllib

import yaml

import bat_jax

ROOT = pathlib.Path(__file__).parents[1]


def test_all_files_name_one_version_and_the_changelog_its_date():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changes = re.findall(r"^## \[(.+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert bat_jax.__version__ == project["version"] == citation["version"] == changes[0][0]
    assert changes[0][1] == str(citation["date-released"])
    assert [date for _, date in changes] == sorted((date for _, date in changes), reverse=True)


def test_the_citation_names_the_paper():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
    assert paper["title"].startswith("UHR-BAT: Budget-Aware Token Compression")
    assert paper["identifiers"][0]["value"] == "arXiv:2604.13565" and len(paper["authors"]) == 7
