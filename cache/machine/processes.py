"""How this process was started: as one of several ranks, or by a script that its worker processes would run again."""

from __future__ import annotations

import ast
import os
import sys
from multiprocessing import current_process
from pathlib import Path

from ..errors import MedalError

__all__ = ["count_ranks", "find_unguarded_script", "refuse_worker"]

# What torchrun sets, and srun by hand, for each process of several.
_MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")


def count_ranks() -> int:
    """Return how many processes share this command, as torchrun or srun say; 1 where none says anything.

    Raises
    ------
    MedalError
        The variables are no numbers, or some are left over from another command.
    """
    said = os.environ.get("WORLD_SIZE", "").strip()
    if not said:
        return 1
    remedy = "Run `unset WORLD_SIZE`, or start the command with torchrun or srun."
    if not said.isdecimal() or int(said) == 0:
        raise MedalError(
            f"The variable WORLD_SIZE is '{said}'; expected the number of processes that share this command. {remedy}"
        )
    size = int(said)
    missing = [name for name in _MEETING if not os.environ.get(name, "").strip()]
    if size > 1 and missing:
        raise MedalError(
            f"WORLD_SIZE={size} says that {size} processes share this command, but {', '.join(missing)} is not set: "
            f"WORLD_SIZE is left over from another command. {remedy}"
        )
    rank = os.environ.get("RANK", "0").strip()
    if size > 1 and not (rank.isdecimal() and int(rank) < size):
        raise MedalError(
            f"The variable RANK is '{rank}'; expected a number from 0 to {size - 1}, as WORLD_SIZE is {size}. {remedy}"
        )
    return size


def find_unguarded_script() -> str | None:
    """Return the script that this process runs if processes that are spawned would run it again, from its first line.

    They do unless its code is under ``if __name__ == "__main__":``. None for a module, a notebook or a prompt.
    """
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if path is None or getattr(main, "__spec__", None) is not None:
        return None
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None
    guarded = any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(tree))
    return None if guarded else str(path)


def refuse_worker(what: str) -> None:
    """Refuse to begin in a process that is being spawned: it runs its parent's script again, which has no guard.

    Raises
    ------
    MedalError
        With the remedy; the parent says that its worker ended.
    """
    if getattr(current_process(), "_inheriting", False):
        raise MedalError(
            f"medal.{what} was called again by a process that reads images, because the script calls it outside of "
            '`if __name__ == "__main__":`; put the call under that line, or give workers=0.'
        )
