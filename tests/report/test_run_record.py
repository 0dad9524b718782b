"""An output directory goes on only with the run that filled it."""

import json

import pytest

from bat_jax.report.run_record import RUN_FILE, check_same_run, package_versions

SETTINGS = {"plan": "reduced"}


def test_a_folder_of_the_tables_of_an_earlier_run_counts_as_empty(tmp_path):
    (tmp_path / "claims.md").write_text("")
    check_same_run(tmp_path, SETTINGS, replaces="*.md")
    with pytest.raises(ValueError, match="is not empty and no run of this command"):
        check_same_run(tmp_path, SETTINGS)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="is not empty and no run of this command"):
        check_same_run(tmp_path, SETTINGS, replaces="*.md")


def test_answers_under_other_settings_are_refused_beside_such_tables(tmp_path):
    (tmp_path / "claims.md").write_text("")
    (tmp_path / RUN_FILE).write_text(json.dumps({"settings": {"plan": "full"}}))
    with pytest.raises(ValueError, match='plan: "full" -> "reduced"'):
        check_same_run(tmp_path, SETTINGS, replaces="*.md")


def test_a_new_folder_and_the_same_settings_are_taken(tmp_path):
    check_same_run(tmp_path / "new", SETTINGS)
    (tmp_path / RUN_FILE).write_text(json.dumps({"settings": SETTINGS}))
    check_same_run(tmp_path, SETTINGS)


def test_packages_that_are_not_installed_are_left_out():
    assert package_versions({"packages": {"jax": "1.2", "rasterio": None, "numpy": "3.4"}}) == "jax 1.2, numpy 3.4"
