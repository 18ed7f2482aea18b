"""What this machine can do for stage one, and what is missing: found out, measured for a few seconds, never guessed."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cache.errors import MedalError, StoreUnusable, TeacherError
from ...cache.machine.home import home_folder
from ...cache.progress import Tell
from ..datasets.columns.dataset import Dataset, DatasetOptions
from ..datasets.opening import open_dataset
from ..datasets.understanding import Understood, understand
from ..planning.contrast import check_views
from ..planning.plan import Arranged, Plan, arrange, estimate_bytes, prepare
from ..planning.request import IMAGE_SIZE, CacheSettings
from ..teacher.files import TeacherFiles, cached_teacher, check_image_size, fitting_features, locate_teacher
from .machine import Choice, choose, find_devices

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["Report", "examine"]

_DISTRIBUTION = "medalmighty"
# For how long the teacher's forward pass is timed, after a first one that is not; seconds.
_SECONDS = 3.0
_HUB_TEACHERS = ("facebook/dinov2-base", "facebook/dinov2-small")
# The work directory holds the features until the cache beside it is sealed.
_COPIES = 2


@dataclass
class Report:
    """What was found.

    Attributes
    ----------
    versions : of medal, Python and the libraries it needs; None where one is missing
    devices : each with its kind, name, memory in bytes, and threads or capability
    chosen : device, precision, batch_size, threads and engine of stage one
    teacher : name, image_size, batch_size and images_per_second of a real forward pass; or why there is none
    dataset : images, bytes and free_bytes on disk, peak_bytes and available_bytes of memory, seconds of the teacher
    understood : what medal reads of the dataset, which is `opened`; None = none asked, or it is refused
    store : url, access (what can be done there) and why_not (a sentence, None if it can be reached); None = none asked
    extras : of each optional extra, what is missing of it and the command that mends that
    problems : what is needed and broken, a sentence with its remedy each
    """

    versions: dict[str, str | None] = field(default_factory=dict)
    devices: list[dict[str, Any]] = field(default_factory=list)
    chosen: dict[str, Choice] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] | None = None
    understood: Understood | None = None
    opened: Dataset | None = None
    store: dict[str, Any] | None = None
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        understood = None if self.understood is None else self.understood.to_dict()
        found = asdict(replace(self, understood=None, opened=None)) | {"understood": understood}
        return {"ok": not self.problems} | {name: value for name, value in found.items() if name != "opened"}


def examine(
    dataset: str | None,
    options: DatasetOptions,
    settings: CacheSettings,
    teacher: str | None,
    store: str | None = None,
    tell: Tell = lambda _: None,
) -> Report:
    """Look at libraries, devices, teacher, dataset and store; nothing is written, no network used but for the store.

    Parameters
    ----------
    dataset : whose needs are compared with what there is; None = none
    settings : what stage one would be asked for
    teacher : a folder or hub id; None = whichever is at hand
    store : address of a store that is to be reached; None = none
    tell : given what is being done, where it takes seconds
    """
    report = Report()
    _find_packages(report)
    _check_home(report)
    if store is not None:
        tell(f"looking into store '{store}'")
        _reach(report, store)
    tell("loading torch and looking at the devices")
    try:
        import torch

        report.devices = find_devices(torch)
        report.chosen = choose(torch, settings)
    except (ImportError, OSError, MedalError) as error:
        report.problems.append(_told(error))
        return report
    files = _find_teacher(report, teacher)
    if files is not None:
        tell(f"timing the forward pass of '{files.name}', a few seconds")
        _time_forward(report, files, settings)
    if dataset is not None:
        tell(f"reading '{dataset}'")
        _weigh(report, dataset, options, settings, files)
    return report


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, MedalError) else f"{type(error).__name__}: {error}"


# ── Packages ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _find_packages(report: Report) -> None:
    """Compare what is installed with what the distribution says that it needs."""
    from packaging.requirements import Requirement

    report.versions = {"medal": version(_DISTRIBUTION), "python": platform.python_version()}
    for requirement in map(Requirement, requires(_DISTRIBUTION) or ()):
        extra = _extra(requirement)
        wanted = str(requirement).partition(";")[0].strip()
        found = _installed(requirement)
        fits = found is not None and requirement.specifier.contains(found, prereleases=True)
        if extra is None:
            report.versions[requirement.name] = found
            if not fits:
                report.problems.append(f"{wanted} is needed, found {found or 'none'}: pip install '{wanted}'")
        elif extra != "dev":
            entry = report.extras.setdefault(extra, {"missing": [], "remedy": None})
            if not fits:
                entry["missing"].append(wanted)
                entry["remedy"] = f'pip install "{_DISTRIBUTION}[{extra}]"'


def _extra(requirement: Requirement) -> str | None:
    """Return the extra that a requirement belongs to: markers of ours say nothing else."""
    marker = str(requirement.marker or "")
    return marker.split("extra ==", 1)[1].strip().strip("\"'") if "extra ==" in marker else None


def _installed(requirement: Requirement) -> str | None:
    try:
        return version(requirement.name)
    except PackageNotFoundError:
        return None


def _check_home(report: Report) -> None:
    """See that medal can keep what it makes; the folder itself is not made."""
    there = _existing(home_folder())
    if not os.access(there, os.W_OK):
        report.problems.append(f"'{home_folder()}' cannot be written to; set MEDAL_HOME to a folder of yours.")


def _reach(report: Report, url: str) -> None:
    """See that a store can be read, and whether it can be written as far as that can be told; nothing is written."""
    from ...cache.store.place.entries import read_entries
    from ...cache.store.place.store import open_store

    report.store = {"url": url, "access": None, "why_not": None}
    try:
        store = open_store(url)
        store.check()
        read_entries(store)
        report.store["access"] = "can be read"
        if not store.read_only:
            try:
                store.require_writable()
                report.store["access"] = "can be read, and pushed to if it lets you"
            except StoreUnusable as error:
                report.store["access"] = f"can be read, not pushed to: {error}"
    except MedalError as error:
        report.store["why_not"] = str(error)
        report.problems.append(str(error))


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


# ── Teacher and dataset ──────────────────────────────────────────────────────────────────────────────────────────


def _find_teacher(report: Report, asked: str | None) -> TeacherFiles | None:
    """Return the teacher that is asked for, or one that is on this machine."""
    asked = asked or os.environ.get("MEDAL_TEACHER")
    try:
        if asked:
            return locate_teacher(asked) if Path(asked).expanduser().is_dir() else cached_teacher(asked, None)
    except TeacherError as error:
        report.problems.append(str(error))
        report.teacher = {"why_not": str(error)}
        return None
    for name in _HUB_TEACHERS:
        try:
            return cached_teacher(name, None)
        except TeacherError:
            continue
    for folder in sorted((home_folder() / "teachers").glob("*")):
        try:
            return locate_teacher(str(folder))
        except TeacherError:
            continue
    report.teacher = {"why_not": "there is none on this machine; give one with --teacher to have its rate measured"}
    return None


def _time_forward(report: Report, files: TeacherFiles, settings: CacheSettings) -> None:
    """Time a teacher's forward pass on images that are in memory: what no pipeline can be faster than."""
    import torch

    from ..teacher.teacher import IMAGES_AT_ONCE, Teacher
    from ..threads import allowed_threads
    from ..views.preprocessing import Preprocessing
    from .precision import fitting_batch_size

    side = settings.image_size if isinstance(settings.image_size, int) else IMAGE_SIZE
    preprocessing = Preprocessing(image_size=side)
    chosen = {name: choice.value for name, choice in report.chosen.items()}
    try:
        check_image_size(files.config, preprocessing.image_size)
        teacher = Teacher.load(
            files, feature=fitting_features(files.config)[-1], precision=chosen["precision"], device=chosen["device"]
        )
        batch = fitting_batch_size(teacher, preprocessing, chosen["batch_size"])
        pixels = torch.zeros(batch, 3, preprocessing.image_size, preprocessing.image_size)
        begun, passes = time.monotonic(), 0
        if chosen["device"] == "cpu":
            # A whole batch of a large teacher takes a minute on few cores; as much as keeps all threads busy is enough.
            teacher.features(pixels[:1], preprocessing)
            turns = _SECONDS / max(1e-3, time.monotonic() - begun) / IMAGES_AT_ONCE
            pixels = pixels[: IMAGES_AT_ONCE * allowed_threads() * max(1, int(turns))]
            begun = time.monotonic()
        while time.monotonic() - begun < _SECONDS or not passes:
            teacher.features(pixels, preprocessing)
            passes += 1
    except (MedalError, OSError) as error:
        report.problems.append(_told(error))
        report.teacher = {"why_not": _told(error)}
        return
    report.chosen["batch_size"] = Choice(batch, report.chosen["batch_size"].why)
    report.teacher = {
        "name": files.name,
        "image_size": preprocessing.image_size,
        "batch_size": batch,
        "images_per_second": round(passes * len(pixels) / (time.monotonic() - begun), 1),
    }


def _weigh(
    report: Report, spec: str, options: DatasetOptions, settings: CacheSettings, files: TeacherFiles | None
) -> None:
    """Compare a dataset's needs with the room that there is, where a default OUT would be."""
    import psutil

    free = shutil.disk_usage(_existing(Path("caches"))).free
    try:
        dataset = report.opened = open_dataset(spec, options)
    except (MedalError, OSError) as error:
        report.problems.append(_told(error))
        return
    images, size, said = len(dataset), None, dataset.notes
    try:
        found: Plan | Arranged
        if files is None:
            found = arrange(dataset, settings, options)
        else:
            found = prepare(spec, None, options, replace(settings, teacher=str(files.folder)), opened=dataset)
            size = _COPIES * estimate_bytes(found)
        images, said, report.opened = sum(map(len, found.rows.values())), found.warnings, found.dataset
        seen = check_views(found.dataset, found.rows, settings)
        said = (*said, *([seen.note] if seen.note else []))
    except (MedalError, OSError) as error:
        report.problems.append(_told(error))
    report.understood = understand(report.opened, said)
    rate = report.teacher.get("images_per_second")
    kilobytes = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in
    report.dataset = {
        "name": spec,
        "images": images,
        "bytes": size,
        "free_bytes": free,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes,
        "available_bytes": psutil.virtual_memory().available,
        "seconds": images / rate if rate else None,
    }
    if size is not None and size > free:
        report.problems.append(
            f"'{spec}' needs {size / 1e9:.1f} GB of disk while its cache is made, and there are {free / 1e9:.1f} GB in "
            f"'{_existing(Path('caches'))}'; give OUT another place, or leave features out with --no-features."
        )
