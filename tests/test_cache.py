"""What was measured is read back to the last bit, and measured again for anything else; damage is found."""

import numpy as np
import pandas as pd
import pytest
import torch

from mtlib.errors import CheckpointError
from mtlib.study import cache as module
from mtlib.study.cache import NO_CACHE, Cache, inference


def test_a_frame_is_kept_to_the_last_bit_and_made_once_for_each_thing(tmp_path):
    cache = Cache(tmp_path / "measures")
    made = pd.DataFrame(
        {"task": ["sst", "qqp"], "batch": np.array([0, 1]), "x": np.array([np.nextafter(0.1, 1), np.nan])}, index=[7, 8]
    )
    first = cache.frame("forms", ["run", 1], lambda: made)
    pd.testing.assert_frame_equal(first, made.reset_index(drop=True), check_exact=True)
    pd.testing.assert_frame_equal(cache.frame("forms", ["run", 1], None), first, check_exact=True)
    pd.testing.assert_frame_equal(NO_CACHE.frame("forms", ["run", 1], lambda: made), first, check_exact=True)
    other = cache.frame("forms", ["run", 2], lambda: made.assign(x=2.0))
    assert other["x"].tolist() == [2.0, 2.0] and len(list(cache.folder.iterdir())) == 2


def test_an_array_is_kept_as_it_is_and_nothing_is_pickled(tmp_path):
    cache, made = Cache(tmp_path), np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    for found in (cache.array("vectors", "it", lambda: made), cache.array("vectors", "it", None)):
        assert found.dtype == np.float32 and (found == made).all()
    with pytest.raises(ValueError, match="pickle|[Oo]bject"):
        cache.array("objects", "it", lambda: np.array([{}], dtype=object))
    assert len(list(tmp_path.iterdir())) == 1


def test_another_version_measures_anew(tmp_path, monkeypatch):
    Cache(tmp_path).array("x", 1, lambda: np.zeros(1))
    monkeypatch.setattr(module.mtlib, "__version__", "of tomorrow")
    assert Cache(tmp_path).array("x", 1, lambda: np.ones(1)) == 1


@pytest.mark.parametrize("kind", ["frame", "array"])
def test_every_flipped_byte_and_every_truncation_is_damage_and_is_named(tmp_path, kind):
    values = {"frame": pd.DataFrame({"a": [1.5]}), "array": np.array([1.5])}
    keep = getattr(Cache(tmp_path), kind)
    keep("x", "run", lambda: values[kind])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for content in [*flipped, *(whole[:i] for i in range(len(whole)))]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{path.name}: damaged; delete it"):
            keep("x", "run", None)


def test_inference_is_in_evaluation_mode_in_the_asked_precision():
    model = torch.nn.Linear(2, 2).train()
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with inference(model, precision) as placed:
            weight = next(placed.parameters())
            assert not placed.training and placed(torch.ones(1, 2, device=weight.device)).dtype == dtype
