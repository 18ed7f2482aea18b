"""Every sentence that medal refuses something with, read from the code, so that a change of one is seen and looked at.

    python tests/messages.py            # print them
    python tests/messages.py --update   # write them to tests/golden/messages.txt, after you have read what changed

A sentence stands under the module and function that raise it; what it is filled with stands in braces.
"""

import ast
import inspect
import sys
from pathlib import Path
from typing import NamedTuple

from medal.cache import errors

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden/messages.txt"
FOLDERS = ("cache", "pipeline", "student")
TREE = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.MedalError)}


class Message(NamedTuple):
    """A sentence, and the lines of the file in which it is raised."""

    module: str
    function: str
    error: str
    sentence: str
    first: int
    last: int


def find_messages():
    """Return the messages of all modules, in the order of files and lines."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += sorted(_of_module(tree, str(path.relative_to(ROOT)), "-"), key=lambda one: one.first)
    return found


def _of_module(node, module, function):
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef):
            name = inner.name if function == "-" else f"{function}.{inner.name}"
            yield from _of_module(inner, module, name)
        else:
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id in TREE:
                sentence = " ".join(_sentence(inner.args[0]).split()) if inner.args else "{}"
                yield Message(module, function, inner.func.id, sentence, inner.lineno, inner.end_lineno)
            yield from _of_module(inner, module, function)


def _sentence(node):
    """Return a string of the code as it will read, with braces where something is filled in."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr():
            return "".join(_sentence(part) for part in node.values)
        case ast.FormattedValue():
            return "{" + ast.unparse(node.value) + "}"
        case ast.BinOp(op=ast.Add()):
            return _sentence(node.left) + _sentence(node.right)
        case ast.IfExp():
            return f"{{{_sentence(node.body)} | {_sentence(node.orelse)}}}"
        case _:
            return "{" + ast.unparse(node) + "}"


def as_text(messages):
    """Return messages as the golden file has them."""
    lines = []
    for one in messages:
        if not lines or lines[-1][0] != (one.module, one.function):
            lines.append(((one.module, one.function), f"\n{one.module} {one.function}"))
        lines.append(((one.module, one.function), f"  {one.error}: {one.sentence}"))
    return "\n".join(line for _, line in lines).strip() + "\n"


if __name__ == "__main__":
    text = as_text(find_messages())
    if "--update" in sys.argv[1:]:
        GOLDEN.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
