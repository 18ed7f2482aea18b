"""Getting a teacher from the Hugging Face hub: its local cache first, the network only when that lacks the files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...cache.errors import MedalError, TeacherError
from ..hub import TIMEOUT_SECONDS, ask_hub
from .processor import has_processor
from .weights import (
    CONFIG,
    INDEX,
    PROCESSOR,
    PROCESSOR_OF_ALL,
    TIMM_PICKLE,
    WEIGHTS,
    has_only_timm_pickle,
    is_timm,
    read_json,
    shard_names,
    weight_files,
)

__all__ = ["cached_snapshot", "fetch_from_hub", "is_known_absent"]


def fetch_from_hub(teacher: str, revision: str | None, check_config: Callable[[Path, str], None]) -> Path:
    """Return the snapshot folder of a model, named by its commit; nothing but configuration and weights is fetched.

    Parameters
    ----------
    teacher : hub id
    revision : branch, tag or commit; None is the default branch
    check_config : called with config.json and the id before the weights are downloaded; it may refuse
    """
    cached = cached_snapshot(teacher, revision)
    if cached is not None:
        says = is_timm(read_json(cached / CONFIG, teacher)) or has_processor(cached)
        if not says and not is_known_absent(cached, PROCESSOR):
            # A snapshot of some files only. Where the hub cannot be reached the caller warns of what is assumed.
            with suppress(Exception):
                ask_hub(teacher, CONFIG, cached.name, seconds=TIMEOUT_SECONDS)
                _fetch_processor(teacher, cached.name)
        return cached
    try:
        return _download(teacher, revision, check_config)
    except MedalError:
        raise
    except Exception as error:
        # requests, httpx, the operating system and the hub's own tree: which one depends on the library's version.
        raise TeacherError(_explain(teacher, revision, error)) from error


def is_known_absent(snapshot: Path, file: str) -> bool:
    """Tell whether the hub has said that a model has no such file, which its local cache remembers."""
    return (snapshot.parent.parent / ".no_exist" / snapshot.name / file).is_file()


def _download(teacher: str, revision: str | None, check_config: Callable[[Path, str], None]) -> Path:
    from huggingface_hub import hf_hub_download

    # The download itself repeats a refused connection for half a minute, and complains each time.
    ask_hub(teacher, CONFIG, revision, seconds=TIMEOUT_SECONDS)
    config = Path(hf_hub_download(teacher, CONFIG, revision=revision, etag_timeout=TIMEOUT_SECONDS))
    check_config(config, teacher)
    folder = config.parent

    # Of the very commit that the configuration is from.
    if is_timm(read_json(config, teacher)):
        _ = _fetch(teacher, WEIGHTS, folder.name) or _fetch(teacher, TIMM_PICKLE, folder.name)
        return folder
    _fetch_processor(teacher, folder.name)
    if not _fetch(teacher, WEIGHTS, folder.name) and _fetch(teacher, INDEX, folder.name):
        for name in shard_names(folder, teacher):
            _fetch(teacher, name, folder.name)
    return folder


def _fetch_processor(teacher: str, commit: str) -> None:
    if not _fetch(teacher, PROCESSOR, commit):
        _fetch(teacher, PROCESSOR_OF_ALL, commit)


def _fetch(teacher: str, name: str, commit: str) -> bool:
    """Fetch one file of a model; False if it has none of that name."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        hf_hub_download(teacher, name, revision=commit, etag_timeout=TIMEOUT_SECONDS)
    except LocalEntryNotFoundError:  # the network went away; a kind of EntryNotFoundError to the hub's library
        raise
    except EntryNotFoundError:
        return False
    return True


def cached_snapshot(teacher: str, revision: str | None) -> Path | None:
    """Return the snapshot in the local cache if configuration and all weights are there, else None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(teacher, revision=revision, local_files_only=True))
        if not has_only_timm_pickle(folder):
            weight_files(folder, teacher)
    except (LocalEntryNotFoundError, HFValidationError, TeacherError):
        return None
    return folder if (folder / CONFIG).is_file() else None


def _explain(teacher: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    what = f"Teacher '{teacher}'" + (f" at revision '{revision}'" if revision else "")
    explanations: list[tuple[tuple[type[Any], ...], str]] = [
        ((errors.GatedRepoError,), "is gated; ask for access on its page, then `hf auth login`."),
        (
            (errors.RevisionNotFoundError,),
            "has no such revision; leave out --revision or name one that its page lists.",
        ),
        (
            (errors.RepositoryNotFoundError, errors.HFValidationError),
            "is neither a folder here nor a model on the Hugging Face hub (private ones need `hf auth login`); "
            "check the name, for instance facebook/dinov2-base.",
        ),
        ((errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled), ""),
        ((errors.EntryNotFoundError,), "has no config.json on the hub; choose a model in transformers' layout."),
    ]
    for kinds, sentence in explanations:
        if isinstance(error, kinds) and sentence:
            return f"{what} {sentence}"
        if isinstance(error, kinds):
            break
    return (
        f"{what} is not in the local Hugging Face cache and could not be downloaded ({type(error).__name__}); "
        "copy the model's folder to this machine and give its path to --teacher, or try again with a network."
    )
