"""What was measured is read back to the last bit, and measured again for anything else."""

import numpy as np
import pandas as pd
import pytest

from mtlib.errors import CheckpointError
from mtlib.study.measured import measured


def test_a_measure_is_kept_to_the_last_bit_and_made_once_for_each_thing(tmp_path):
    made = pd.DataFrame(
        {"task": ["sst", "qqp"], "batch": np.array([0, 1]), "x": np.array([np.nextafter(0.1, 1), np.nan])}, index=[7, 8]
    )
    first = measured(tmp_path / "measures", "forms", ["run", 1], lambda: made)
    pd.testing.assert_frame_equal(first, made.reset_index(drop=True), check_exact=True)
    again = measured(tmp_path / "measures", "forms", ["run", 1], None)
    pd.testing.assert_frame_equal(again, first, check_exact=True)
    other = measured(tmp_path / "measures", "forms", ["run", 2], lambda: made.assign(x=2.0))
    assert other["x"].tolist() == [2.0, 2.0] and len(list((tmp_path / "measures").iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"[1, 2", b'{"columns": ["a"], "data": [[1, 2]]}', b'{"rows": []}', b"\xff"])
def test_a_damaged_file_is_said(tmp_path, content):
    measured(tmp_path, "forms", "run", lambda: pd.DataFrame({"a": [1]}))
    path = next(tmp_path.iterdir())
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged .* delete it to measure again"):
        measured(tmp_path, "forms", "run", None)
    assert path.read_bytes() == content
