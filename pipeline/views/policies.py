"""Which views keep a label, and drawing one: a row of numbers, a pure function of seed, key, epoch and view.

Every parameter is 0 where it does nothing: a row of zeros is the canonical view. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError

__all__ = ["POLICIES", "VIEW_PARAMETERS", "Policy", "Views", "choose_views", "draw_views", "policy_named"]

# shift_x, shift_y   content moves right and down, in sides of the image
# zoom               log2 of the enlargement about the centre
# rotation           turns, anticlockwise as seen
# hflip, vflip       0 or 1, done before the rest: left-right, top-bottom
# brightness         added, in units of the full range
# contrast           log2 of the gain about the image's own mean
VIEW_PARAMETERS = ("shift_x", "shift_y", "zoom", "rotation", "hflip", "vflip", "brightness", "contrast")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Transforms that do not change the label: the largest absolute value of each parameter.

    Attributes
    ----------
    shift : in sides of the image
    zoom : log2 of the enlargement
    rotation : turns; 0.5 is any direction
    hflip, vflip : whether mirroring, in half of the views, is legal
    brightness : in units of the full range
    contrast : log2 of the gain
    reason : why these
    """

    reason: str
    shift: float = 0.0
    zoom: float = 0.0
    rotation: float = 0.0
    hflip: bool = False
    vflip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0

    def allows(self, other: Policy) -> bool:
        """Tell whether all that another policy may do is within this one's ranges."""
        mine, others = self.to_dict(), other.to_dict()
        return all(others[name] <= mine[name] for name in mine)

    def to_dict(self) -> dict[str, Any]:
        """Return the ranges for JSON; the reason is prose and not part of the request."""
        return {name: value for name, value in asdict(self).items() if name != "reason"}


# Ten degrees, the tilt of a patient or a probe that is seen in practice.
_TILT = 10 / 360

POLICIES: Mapping[str, Policy] = {
    "none": Policy(reason="nothing is changed"),
    "small": Policy(
        reason="for any modality: small changes of position and exposure; nothing is mirrored",
        shift=0.05,
        zoom=0.1,
        rotation=_TILT,
        brightness=0.05,
        contrast=0.15,
    ),
    "xray": Policy(
        reason="heart, liver and side markers have a side, so no mirroring; exposure differs between machines",
        shift=0.06,
        zoom=0.15,
        rotation=_TILT,
        brightness=0.1,
        contrast=0.3,
    ),
    "ct": Policy(
        reason="organs have a side, and Hounsfield units mean something: neither mirroring nor intensity changes",
        shift=0.06,
        zoom=0.15,
        rotation=_TILT,
    ),
    "mri": Policy(
        reason="organs have a side; the unit of intensity is arbitrary from scan to scan",
        shift=0.06,
        zoom=0.15,
        rotation=_TILT,
        brightness=0.1,
        contrast=0.3,
    ),
    "ultrasound": Policy(
        reason="a probe turned round mirrors the image; shadows fall away from it, so top and bottom never change",
        shift=0.08,
        zoom=0.2,
        rotation=_TILT,
        hflip=True,
        brightness=0.1,
        contrast=0.3,
    ),
    "oct": Policy(
        reason="left and right eyes mirror each other; the layers of the retina lie in one order from top to bottom",
        shift=0.06,
        zoom=0.15,
        rotation=_TILT,
        hflip=True,
        brightness=0.1,
        contrast=0.3,
    ),
    "fundus": Policy(
        reason="left and right eyes mirror each other; the vessel arcades keep top and bottom apart",
        shift=0.05,
        zoom=0.15,
        rotation=_TILT,
        hflip=True,
        brightness=0.1,
        contrast=0.2,
    ),
    "dermoscopy": Policy(
        reason="a lesion has no up; its colour is part of the diagnosis, so intensity changes little",
        shift=0.08,
        zoom=0.2,
        rotation=0.5,
        hflip=True,
        vflip=True,
        brightness=0.05,
        contrast=0.15,
    ),
    "pathology": Policy(
        reason="tissue has no up and no side; stain and lamp differ between laboratories",
        shift=0.08,
        zoom=0.15,
        rotation=0.5,
        hflip=True,
        vflip=True,
        brightness=0.1,
        contrast=0.3,
    ),
    "microscopy": Policy(
        reason="cells have no up and no side; size is diagnostic, so the zoom is small",
        shift=0.08,
        zoom=0.1,
        rotation=0.5,
        hflip=True,
        vflip=True,
        brightness=0.1,
        contrast=0.3,
    ),
}


def policy_named(name: str) -> Policy:
    """Return a policy, or raise DataError that lists the known ones."""
    if name not in POLICIES:
        raise DataError(f"Unknown augmentation policy '{name}'; known: {', '.join(POLICIES)}.")
    return POLICIES[name]


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views that a cache stores of each train image: the canonical one and `count` - 1 drawn from a policy.

    Images of the other splits have the canonical view alone.
    """

    count: int = 1
    policy: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        if policy_named(self.policy) == POLICIES["none"] and self.count > 1:
            known = ", ".join(name for name in POLICIES if name != "none")
            raise DataError(
                f"{self.count} views without a policy would all be the same; choose with --augment what may change "
                f"without changing the label: {known}."
            )

    def of(self, split: str) -> int:
        """Return the number of views of a split."""
        return self.count if split == "train" else 1

    def draw(self, split: str, keys: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the parameters of each view of each image, (B, V, P) float32."""
        policy = policy_named(self.policy)
        return np.stack([draw_views(policy, keys, 0, view, self.seed) for view in range(self.of(split))], 1)

    def to_request(self) -> dict[str, Any]:
        """Return what decides the views, as JSON knows it; the ranges too, as another medal may have others."""
        request: dict[str, Any] = {"count": self.count, "policy": self.policy}
        return request if self.count == 1 else {**request, "ranges": policy_named(self.policy).to_dict()}


def choose_views(keys: npt.NDArray[np.uint8], epoch: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Choose one of `count` stored views of each image, (B,) int64: a pure function of key, epoch and seed."""
    return np.asarray(_uniform(keys, (seed, epoch, _CHOICE), 1)[:, 0] * count, np.int64)


def draw_views(
    policy: Policy, keys: npt.NDArray[np.uint8], epoch: int, view: int, seed: int
) -> npt.NDArray[np.float32]:
    """Draw one view of each image.

    A pure function of each row's key and of seed, epoch and view: not of the order or number of the rows.

    Parameters
    ----------
    policy : the ranges
    keys : (B, 16) content keys
    epoch, view, seed : not negative; view 0 is the canonical view, a row of zeros in every epoch

    Returns
    -------
    (B, P) float32, the columns `VIEW_PARAMETERS`
    """
    if view == 0:
        return np.zeros((len(keys), len(VIEW_PARAMETERS)), np.float32)
    uniform = _uniform(keys, (seed, epoch, view), len(VIEW_PARAMETERS))  # (B, P) in 0…1
    largest = np.array(
        [policy.shift, policy.shift, policy.zoom, policy.rotation, 0, 0, policy.brightness, policy.contrast]
    )
    params = (2 * uniform - 1) * largest
    hflip, vflip = VIEW_PARAMETERS.index("hflip"), VIEW_PARAMETERS.index("vflip")
    params[:, hflip] = policy.hflip & (uniform[:, hflip] < 0.5)
    params[:, vflip] = policy.vflip & (uniform[:, vflip] < 0.5)
    # Adding zero turns −0.0 into 0.0: equal views then have equal bytes.
    return np.asarray(params + 0.0, np.float32)


def _uniform(keys: npt.NDArray[np.uint8], counters: Sequence[int], count: int) -> npt.NDArray[np.float64]:
    """Return (B, count) numbers in 0…1 by hashing each key with the counters.

    numpy's own generators keep one state for a whole batch or cost 20 µs a row; a hash of the row costs 0.1 µs.
    """
    words = np.ascontiguousarray(keys).view("<u8").astype(np.uint64)  # (B, 2)
    state = np.zeros(len(words), np.uint64)
    for counter in counters:
        state = _mix(state ^ np.uint64(counter))
    for column in words.T:
        state = _mix(state ^ column)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    # 53 bits: every float64 in 0…1 of that spacing, exactly.
    return np.asarray((_mix(state[:, None] + steps) >> np.uint64(11)) * 2.0**-53, np.float64)


# A counter that no view has, so that the choice of a view tells nothing of any view's parameters.
_CHOICE = 1 << 32
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64-bit words: the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
