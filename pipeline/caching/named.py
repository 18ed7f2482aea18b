"""A cache by the name of its teacher, for who cannot load that teacher: offline, or where the weights are gated.

A cache's id needs the digest of the weights. Without them a cache is looked up by all else: images, labels, splits and
settings as everywhere, and the teacher by its name on the hub and its revision, as the cache itself says them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...cache.errors import CacheCorrupt, CacheError, CacheMismatch, TeacherError
from ...cache.format.manifest import Manifest
from ...cache.progress import Tell
from ...cache.reader import Cache, open_cache
from ...cache.store.fetch import choose_signed, pull, read_manifest
from ...cache.store.place.layout import Entry, unweighted_address
from ..datasets.columns.dataset import DatasetOptions
from ..datasets.opening import dataset_name
from ..planning.plan import arrange
from ..planning.request import CacheSettings, make_request
from ..teacher.files import TeacherFiles, is_hub_id
from ..views.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from .make import Made
from .sharing import Lab

__all__ = ["Named", "ask_by_name", "obtain_named"]


@dataclass(frozen=True, kw_only=True)
class Named:
    """What is asked for, all but the weights.

    Attributes
    ----------
    address : of the request without what only the teacher's files say
    images : rows over all splits
    """

    target: Path
    teacher: str
    revision: str | None
    address: str
    images: int

    def is_in(self, manifest: Manifest) -> bool:
        """Tell whether a cache is what is asked for."""
        teacher = manifest.teacher
        named = self._is_teacher(teacher.get("name"), teacher.get("revision"))
        return named and unweighted_address(manifest.raw.get("request", {})) == self.address

    def is_listed_as(self, entry: Entry) -> bool:
        """Tell whether an entry says that it is; that has to be seen."""
        said = entry.summary
        named = self._is_teacher(said.get("teacher"), said.get("revision"))
        return named and said.get("unweighted_address") == self.address

    def _is_teacher(self, name: object, revision: object) -> bool:
        # A branch or tag cannot be looked up where the hub is not asked; the beginning of a commit can.
        return name == self.teacher and (self.revision is None or str(revision).startswith(self.revision))


def ask_by_name(
    spec: str, out: str | None, options: DatasetOptions, settings: CacheSettings, reason: TeacherError
) -> Named:
    """Return what is asked for without the teacher.

    Parameters
    ----------
    reason : why it cannot be loaded, which is raised where a name does not say what is meant
    """
    if settings.tune or not is_hub_id(settings.teacher):
        raise reason
    arranged = arrange(spec, options, settings)
    preprocessing = Preprocessing(
        image_size=arranged.image_size,
        resize=settings.resize,
        intensity=options.intensity,
        window=options.window,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    nobody = TeacherFiles(settings.teacher, settings.revision, Path(), "", {})
    name = settings.teacher.rsplit("/", 1)[-1]
    return Named(
        target=Path(out) if out else Path("caches") / f"{dataset_name(spec)}-{name}.zarr",
        teacher=settings.teacher,
        revision=settings.revision,
        address=unweighted_address(make_request(arranged.dataset, arranged.rows, nobody, preprocessing, settings)),
        images=sum(map(len, arranged.rows.values())),
    )


def obtain_named(asked: Named, lab: Lab, reason: TeacherError, *, overwrite: bool, tell: Tell) -> Made:
    """Take over what is asked for from the store, or leave it if it is at the target.

    Raises
    ------
    TeacherError
        The store has it by no teacher of this name.
    CacheMismatch
        It has it by several, or nobody signed it who has to have, or something else is at the target.
    CacheCorrupt
        It is not what its entry says.
    """
    with suppress(CacheError):
        there = open_cache(asked.target)
        if asked.is_in(there.manifest):
            return _made(there, "reuse")
    entry = find_named(asked, lab, reason, tell)
    pulled = pull(lab.store, entry, asked.target, lab.progress, overwrite=overwrite, trust=lab.trust, tell=tell)
    return _made(pulled.cache, pulled.action)


def find_named(asked: Named, lab: Lab, reason: TeacherError, tell: Tell) -> Entry:
    """Return the entry of what is asked for, its manifest read and checked; say whose weights it is by."""
    found = [entry for entry in lab.entries(tell) if asked.is_listed_as(entry)]
    if not found:
        raise TeacherError(
            f"{reason} Store '{lab.store.url}' has no cache of these images by a teacher of that name either."
        ) from reason
    several = {entry.cache_id: entry for entry in found}
    if len(several) > 1:
        weights = ", ".join(
            f"{entry.cache_id[:8]} (weights {str(entry.summary.get('weights_sha256'))[:12]}…, revision "
            f"{entry.summary.get('revision')})"
            for entry in several.values()
        )
        raise CacheMismatch(
            f"{reason} Store '{lab.store.url}' has {len(several)} caches of these images by teachers of that name: "
            f"{weights}; say which by --revision, or pull it: medal pull ID {lab.store.url}"
        ) from reason
    entry = choose_signed(lab.store, found, lab.trust)
    manifest = read_manifest(lab.store, entry)
    if not asked.is_in(manifest):
        raise CacheCorrupt(
            f"Cache '{entry.cache_id}' of store '{lab.store.url}' is not what its entry says; nothing was taken over. "
            "Tell whoever keeps the store."
        )
    teacher = manifest.teacher
    tell(
        f"teacher '{asked.teacher}' is not at hand; the store has this cache by weights with the SHA-256 "
        f"{teacher.get('weights_sha256')}, revision {teacher.get('revision')}, which could not be compared with yours"
    )
    return entry


def _made(cache: Cache, action: str) -> Made:
    rows = sum(cache.manifest.rows.values())
    return Made(
        cache=cache,
        action="pulled" if action == "pulled" else "reuse",
        computed=0,
        kept=rows,
        images_per_second=None,
        seconds=0.0,
    )
