"""Views: drawn as numbers that depend on the image alone, applied so that they can be replayed."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from draws import examples
from hypothesis import given
from hypothesis import strategies as st

from medal.cache.errors import DataError
from medal.pipeline.views.transforms import POLICIES, VIEW_PARAMETERS, Policy, apply_views, draw_views, policy_named

P = len(VIEW_PARAMETERS)
GOLDEN_ROW = "3de1213d508a44be347e25be637fd33e000000000000803f2d5dfd3d48c4d4be"
ANYTHING = Policy(
    reason="all of it", shift=0.2, zoom=0.5, rotation=0.5, hflip=True, vflip=True, brightness=0.2, contrast=0.5
)


def some_keys(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16), np.uint8)


def params_of(**values):
    row = torch.zeros(1, P)
    for name, value in values.items():
        row[0, VIEW_PARAMETERS.index(name)] = value
    return row


@pytest.fixture(scope="module")
def pixels():
    # Smooth, so that resampling twice or by another formula may differ only a little.
    y, x = torch.meshgrid(torch.linspace(0, 3, 41), torch.linspace(0, 4, 41), indexing="ij")
    images = [127 + 100 * torch.sin(x * (1 + i) + y) * torch.cos(y * 2 + i) for i in range(6)]
    return torch.stack(images)[:, None].repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.9, 0.8]).view(3, 1, 1)


# ── Drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────


@examples(50)
@given(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(1, 100), st.permutations(range(12)))
def test_a_row_depends_on_its_key_alone(seed, epoch, view, order):
    keys = some_keys(12)
    drawn = draw_views(ANYTHING, keys, epoch, view, seed)
    assert np.array_equal(draw_views(ANYTHING, keys[order], epoch, view, seed), drawn[order])
    assert np.array_equal(draw_views(ANYTHING, keys[3:4], epoch, view, seed), drawn[3:4])


def test_the_numbers_never_change():
    # A stored cache is replayed by later versions: this row is part of the format.
    drawn = draw_views(ANYTHING, np.arange(16, dtype=np.uint8)[None], epoch=2, view=1, seed=7)
    assert drawn.dtype == np.float32
    assert drawn.tobytes().hex() == GOLDEN_ROW


def test_every_argument_matters():
    keys = some_keys(64)
    base = draw_views(ANYTHING, keys, 1, 1, 1)
    for other in ((2, 1, 1), (1, 2, 1), (1, 1, 2)):
        assert not (draw_views(ANYTHING, keys, *other) == base)[:, :4].any()
    # Epoch and view are not added up: (1, 2) is not (2, 1).
    assert not np.array_equal(draw_views(ANYTHING, keys, 1, 2, 1), draw_views(ANYTHING, keys, 2, 1, 1))
    flipped = keys.copy()
    flipped[:, 15] ^= 1
    assert not (draw_views(ANYTHING, flipped, 1, 1, 1) == base)[:, :4].any()


@pytest.mark.parametrize("name", POLICIES)
def test_parameters_stay_inside_the_policy(name):
    policy = POLICIES[name]
    drawn = draw_views(policy, some_keys(2000), epoch=3, view=1, seed=0)
    limits = [policy.shift, policy.shift, policy.zoom, policy.rotation, policy.hflip, policy.vflip]
    limits += [policy.brightness, policy.contrast]
    largest = np.abs(drawn).max(0)
    assert (largest <= np.float32(limits)).all()
    assert (largest >= 0.99 * np.float32(limits)).all()
    assert set(np.unique(drawn[:, 4:6])) <= {0, 1}
    assert not np.signbit(drawn[drawn == 0]).any()


def test_draws_are_spread_evenly_and_independent():
    drawn = draw_views(ANYTHING, some_keys(20_000), epoch=0, view=1, seed=0)
    unit = drawn / [0.2, 0.2, 0.5, 0.5, 1, 1, 0.2, 0.5]
    assert unit[:, 4:6].mean(0) == pytest.approx([0.5, 0.5], abs=0.015)
    even = np.delete(unit, (4, 5), 1)
    assert np.abs(even.mean(0)).max() < 0.02
    assert even.var(0) == pytest.approx(np.full(P - 2, 1 / 3), abs=0.01)
    assert np.abs(np.corrcoef(unit.T) - np.eye(P)).max() < 0.03


def test_neighbouring_keys_and_epochs_are_unrelated():
    keys = np.zeros((4000, 16), np.uint8)
    keys[:, :2] = np.arange(4000, dtype="<u2")[:, None].view(np.uint8)
    first, second = (draw_views(ANYTHING, keys, epoch, 1, 0)[:, 0] for epoch in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.06


def test_view_0_is_canonical_and_so_is_every_view_without_policy():
    keys = some_keys(5)
    assert not draw_views(ANYTHING, keys, epoch=9, view=0, seed=1).any()
    assert not draw_views(POLICIES["none"], keys, epoch=9, view=3, seed=1).any()
    assert draw_views(ANYTHING, keys[:0], epoch=0, view=1, seed=0).shape == (0, P)


def test_an_epoch_of_5000_views_is_drawn_in_no_time():
    keys = some_keys(5000)
    seconds = []
    for epoch in range(5):
        start = time.process_time()
        draw_views(ANYTHING, keys, epoch, 1, 0)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05


# ── Policies ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_flips_only_where_a_mirrored_patient_is_the_same_patient():
    legal = {name: (policy.hflip, policy.vflip) for name, policy in POLICIES.items()}
    assert not any(any(legal[name]) for name in ("none", "small", "xray", "ct", "mri"))
    assert {name for name, flips in legal.items() if flips == (True, False)} == {"ultrasound", "oct", "fundus"}
    assert {name for name, flips in legal.items() if flips[1]} == {"dermoscopy", "pathology", "microscopy"}


def test_ct_keeps_its_hounsfield_units():
    assert POLICIES["ct"].brightness == POLICIES["ct"].contrast == 0


def test_every_policy_says_why_and_the_record_holds_numbers_only():
    for policy in POLICIES.values():
        assert policy.reason
        assert set(policy.to_dict()) == {field.name for field in dataclasses.fields(Policy)} - {"reason"}


def test_an_unknown_policy_names_the_known_ones():
    assert policy_named("xray") is POLICIES["xray"]
    with pytest.raises(DataError, match=r"'x-ray'.*ultrasound"):
        policy_named("x-ray")


# ── Applying ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_zeros_give_back_the_same_bits(pixels):
    assert torch.equal(apply_views(pixels, torch.zeros(6, P)), pixels)
    # … and so does a row of zeros among others, and the input is left alone.
    before = pixels.clone()
    params = torch.from_numpy(draw_views(ANYTHING, some_keys(6), 0, 1, 0))
    params[[1, 4]] = 0
    assert torch.equal(apply_views(pixels, params)[[1, 4]], pixels[[1, 4]])
    assert torch.equal(pixels, before)


def test_flips_are_exact(pixels):
    one = pixels[:1]
    assert torch.equal(apply_views(one, params_of(hflip=1)), one.flip(3))
    assert torch.equal(apply_views(one, params_of(vflip=1)), one.flip(2))
    assert torch.equal(apply_views(one, params_of(hflip=1, vflip=1)), one.flip(2, 3))


def test_an_image_does_not_depend_on_its_batch(pixels):
    params = torch.from_numpy(draw_views(ANYTHING, some_keys(6), 0, 1, 0))
    together = apply_views(pixels, params)
    assert torch.equal(together, torch.cat([apply_views(pixels[i : i + 1], params[i : i + 1]) for i in range(6)]))
    assert torch.equal(together, apply_views(pixels, params))
    assert torch.equal(apply_views(pixels.flip(0), params.flip(0)), together.flip(0))


def test_every_view_stays_in_range(pixels):
    extreme = Policy(reason="", shift=0.5, zoom=1, rotation=0.5, brightness=1, contrast=3)
    params = torch.from_numpy(draw_views(extreme, some_keys(6), 0, 1, 0))
    low, high = apply_views(pixels, params).aminmax()
    assert low >= 0
    assert high <= 255


def test_a_quarter_turn_goes_anticlockwise(pixels):
    turned = apply_views(pixels[:1], params_of(rotation=0.25))
    torch.testing.assert_close(turned, torch.rot90(pixels[:1], 1, (2, 3)), rtol=0, atol=0.01)


def test_a_shift_moves_the_content_right_and_down(pixels):
    moved = apply_views(pixels[:1], params_of(shift_x=4 / 41, shift_y=7 / 41))
    torch.testing.assert_close(moved[:, :, 7:, 4:], pixels[:1, :, :-7, :-4], rtol=0, atol=0.01)


def test_a_shift_beyond_the_border_reflects(pixels):
    moved = apply_views(pixels[:1], params_of(shift_x=3 / 41))
    torch.testing.assert_close(moved[..., :3], pixels[:1, :, :, :3].flip(3), rtol=0, atol=0.01)


def bilinear(image, y, x):
    """Read (H, W) at real coordinates with the image reflected beyond its edges; pixel i spans i … i + 1."""

    def inside(at, side):
        at = np.mod(at, 2 * side)
        at = np.where(at > side, 2 * side - at, at) - 0.5
        return np.clip(at, 0, side - 1)

    y, x = inside(y, image.shape[0]), inside(x, image.shape[1])
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below, right = np.minimum(top + 1, image.shape[0] - 1), np.minimum(left + 1, image.shape[1] - 1)
    dy, dx = y - top, x - left
    upper = image[top, left] * (1 - dx) + image[top, right] * dx
    lower = image[below, left] * (1 - dx) + image[below, right] * dx
    return upper * (1 - dy) + lower * dy


def slow_view(image, values):
    """One channel's view in numpy, as VIEW_PARAMETERS words it: mirror, zoom, turn, shift, contrast, brightness."""
    height, width = image.shape
    image = image[:, ::-1] if values["hflip"] else image
    image = image[::-1] if values["vflip"] else image
    # Each output pixel's centre, taken back through shift, turn and zoom about the middle of the image.
    y, x = np.mgrid[:height, :width] + 0.5
    y, x = y - height / 2 - values["shift_y"] * height, x - width / 2 - values["shift_x"] * width
    angle, size = 2 * np.pi * values["rotation"], 2.0 ** values["zoom"]
    x, y = (x * np.cos(angle) - y * np.sin(angle)) / size, (x * np.sin(angle) + y * np.cos(angle)) / size
    moved = bilinear(image, y + height / 2, x + width / 2)
    exposed = (moved - moved.mean()) * 2.0 ** values["contrast"] + moved.mean() + 255 * values["brightness"]
    return np.clip(exposed, 0, 255)


@examples(40)
@given(st.integers(0, 10**6), st.sampled_from([(24, 24), (20, 31), (33, 17)]))
def test_a_view_is_what_its_numbers_say(seed, shape):
    rng = np.random.default_rng(seed)
    image = rng.uniform(0, 255, shape)
    drawn = draw_views(ANYTHING, some_keys(1, seed), 0, 1, seed)
    values = dict(zip(VIEW_PARAMETERS, drawn[0].astype(float), strict=True))
    ours = apply_views(torch.tensor(image, dtype=torch.float32).expand(1, 3, -1, -1), torch.from_numpy(drawn))
    np.testing.assert_allclose(ours[0, 1].numpy(), slow_view(image, values), atol=0.05)
