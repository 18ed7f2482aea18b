"""A cache takes hardly more room than its arrays."""

import numpy as np
import pytest

from medal.cache.format.forms import form_of


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_rows_just_beyond_a_chunk_do_not_cost_another(tmp_path, suffix):
    arrays = {"train/key": np.zeros((600_000, 16), np.uint8)}  # 9.6 MB, and a chunk has up to 8.4
    path = tmp_path / f"made{suffix}"
    form_of(path).write(path, arrays, b"{}", b"{}")
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    assert arrays["train/key"].nbytes <= size <= 1.01 * arrays["train/key"].nbytes
