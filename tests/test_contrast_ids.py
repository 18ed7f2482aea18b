"""Caches of sets that were always read rightly keep their address: what is found is in it only where it differs."""

import numpy as np
import pytest
from teacher_folders import WEIGHTS, make_teacher

from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.planning.plan import prepare
from medal.pipeline.planning.request import CacheSettings

STACK = (np.arange(30 * 16 * 16).reshape(30, 16, 16) * 7 % 256).astype(np.uint8)
# As the version before black and white were looked for computed them (commit caf5f39).
BEFORE = {
    "uint8": (STACK, "096374494fe06f8deba10acb46480ecc"),
    "uint16": (STACK.astype(np.uint16) * 257, "a9d8f6454bf361205a399d419c1b37f5"),
    "15 bits in uint16": (STACK.astype(np.uint16) * 128, "5e8ea8a015481177ef17a8642640a9aa"),
    "float to 1": ((STACK / 255).astype(np.float32), "df0780f4e8566e3416133c44aefc54ad"),
    "float to 255": (STACK.astype(np.float64), "093206694be753832229d73d9276d149"),
    "int64": (STACK.astype(np.int64), "3ebf1dbb4c231450414c347d6cd4011e"),
    "colour": (np.stack([STACK, STACK[::-1], 255 - STACK], 3), "f7cd48ae920d477b344acdbbb050efda"),
}


@pytest.fixture
def address(tmp_path):
    teacher = make_teacher(tmp_path / "t", model__safetensors=WEIGHTS, preprocessor_config__json=b"{}")

    def ask(images, **options):
        np.savez(tmp_path / "set.npz", train_images=images, train_labels=np.arange(len(images)) % 2)
        settings = CacheSettings(teacher=str(teacher), feature="cls+mean", image_size=56, probe="grid")
        return prepare(str(tmp_path / "set.npz"), None, DatasetOptions(**options), settings)

    return ask


@pytest.mark.parametrize("name", BEFORE)
def test_a_set_that_was_read_rightly_keeps_its_address(address, name):
    images, known = BEFORE[name]
    assert address(images).cache_id == known


def test_what_is_found_is_recorded_and_part_of_the_address_where_it_differs(address):
    deep = STACK.astype(np.uint16) * 16
    found, told, declared = address(deep), address(deep, intensity="0,4095"), address(deep, intensity="declared")
    assert found.preprocessing.to_dict()["intensity"] == "0,4095"
    assert found.request["preprocessing"]["intensity"] == "0,4095"
    assert found.cache_id == told.cache_id != declared.cache_id
    assert any("12 bits of the more that they declare" in warning for warning in found.warnings)
    floats = address((STACK / 255).astype(np.float32))
    assert floats.preprocessing.to_dict()["intensity"] == "declared 0,1"
    assert floats.request["preprocessing"]["intensity"] == "declared"
    # Where an image overshoots, all were taken for nearly black before: another cache.
    beyond = (STACK / 255).astype(np.float32)
    beyond[0, 0, 0] = 1 + 2e-7
    assert address(beyond).request["preprocessing"]["intensity"] == "0,1"
