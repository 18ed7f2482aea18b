"""Whether the Hugging Face hub answers, asked before its own client tries for a minute, and complains each time."""

from __future__ import annotations

from threading import Thread
from typing import Any

__all__ = ["TIMEOUT_SECONDS", "ask_hub"]

# Behind a hospital's firewall the hub often does not refuse but never answers.
TIMEOUT_SECONDS = 10.0


def ask_hub(teacher: str, file: str, revision: str | None = None, *, seconds: float) -> None:
    """Ask the hub for a file of a model, once and without a word, and raise what it says against it.

    Raises
    ------
    TimeoutError
        There was no whole answer in time.
    Exception
        The hub's refusal, or that it cannot be reached: of the tree of huggingface_hub or of what it asks with.
    """
    answers: list[Exception | None] = []
    # A thread, because no time-out of the client covers a name server that never answers, a host of many addresses
    # behind a firewall that drops what it does not like, or an answer that trickles in.
    asking = Thread(target=lambda: answers.append(_refusal(teacher, file, revision, seconds)), daemon=True)
    asking.start()
    asking.join(seconds)
    answer = answers[0] if answers else TimeoutError(f"no answer within {seconds:g} s")
    if answer is not None:
        raise answer


def _refusal(teacher: str, file: str, revision: str | None, seconds: float) -> Exception | None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub import utils as hub_utils

    client: Any = hub_utils  # whose names come late, unseen by type checkers
    # get_hf_file_metadata would do, but some releases (0.36, the last before 1.0) send it six times.
    try:
        url = hf_hub_url(teacher, file, revision=revision)
        client.hf_raise_for_status(client.get_session().head(url, headers=client.build_hf_headers(), timeout=seconds))
    except Exception as error:  # noqa: BLE001 - for whoever waits to raise
        return error
    return None
