"""The fate of tokens in the pictures, against the selection it is drawn from; and files written whole or not at all."""

import numpy as np
import pytest

from bat_jax.compress.compressor import ScaleTokens
from bat_jax.compress.preserve_merge import preserve_merge
from bat_jax.report.pictures import DROPPED, KEPT, MERGED, PADDING, token_fate
from bat_jax.report.run_record import check_output_dir, staged_dir, staged_file


def test_every_token_is_kept_merged_dropped_or_padding_as_the_selection_says():
    # regions 0 and 1, a token alone (-1), a padding token; with a budget of 4 region 1's merged row is cut off
    region_id = np.array([0, 0, 0, -1, 1, 1, 0], np.int32)
    importance = np.array([9, 1, 2, 8, 3, 1, 50], np.float32)
    valid = np.array([1, 1, 1, 1, 1, 1, 0], bool)
    selection = preserve_merge(
        np.eye(7, dtype=np.float32), importance, region_id, valid, 4, num_regions=2, max_budget=5
    )
    fate = token_fate(ScaleTokens(np.eye(7, dtype=np.float32), region_id, valid), selection)
    assert fate.fate.tolist() == [KEPT, MERGED, MERGED, KEPT, KEPT, DROPPED, PADDING]
    assert fate.counts == (3, 2, 1, 1)
    assert fate.num_merged_rows == 1


def test_a_failed_run_leaves_no_file_and_no_folder(tmp_path):
    with pytest.raises(RuntimeError), staged_dir(tmp_path / "report") as stage:
        (stage / "answer.json").write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), staged_file(tmp_path / "trace.npz") as stage:
        stage.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_report_replaces_its_own_files_and_keeps_others(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "answer.json").write_text("old")
    with staged_dir(tmp_path) as stage:
        (stage / "answer.json").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"notes.txt": "mine", "answer.json": "new"}


def test_output_directories_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        check_output_dir(tmp_path / "file", overwrite=False)
    with pytest.raises(ValueError, match="cannot be written"):
        check_output_dir(tmp_path / "file" / "below", overwrite=False)
    with pytest.raises(ValueError, match="--overwrite"):
        check_output_dir(tmp_path, overwrite=False)
    check_output_dir(tmp_path, overwrite=True)
    check_output_dir(tmp_path / "new" / "deep", overwrite=False)
