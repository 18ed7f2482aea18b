"""What people see on a terminal of 80 columns, as a terminal shows it: a pseudo-terminal and an emulator."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from store_cases import make_cache

from medal.cache.terminal.console import _clock, stack, wrap
from medal.student.figures.tables import Table

pyte = pytest.importorskip("pyte", reason="the emulator of a terminal is for the tests alone")
COLUMNS, LINES = 80, 200


def show(words, tmp_path, columns=COLUMNS, status=0):
    """Run a command on a terminal; return its lines when it is over, and what was on the screen on the way."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR", "CI")
    }
    running = subprocess.Popen(
        [sys.executable, "-m", "medal", *map(str, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env={**environment, "TERM": "xterm-256color"},
        close_fds=True,
    )
    os.close(theirs)
    screen = pyte.Screen(columns, LINES)
    stream, seen = pyte.ByteStream(screen), set()
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        stream.feed(part)
        seen.update(line.rstrip() for line in screen.display)
    os.close(ours)
    assert running.wait(60) == status, "\n".join(screen.display)
    return [line.rstrip() for line in screen.display if line.strip()], seen


def test_a_training_on_a_terminal(squares, tmp_path):
    words = ["train-student", squares / "squares.zarr", squares / "squares.npz", "--out", "run", "--epochs", 40]
    words += ["--student", "test_resnet", "--image-size", 32, "--precision", "fp32", "--baseline"]
    lines, seen = show(words, tmp_path)
    # No line is of the bar and of an epoch, or of two epochs.
    told = [line for line in seen if "epoch " in line and "/40:" in line]
    assert told
    assert all(re.match(r"epoch \d+/40: loss ", line) for line in told)
    assert not any(re.search(r"/1920.*epoch|epoch.*/1920", line) for line in seen)
    bars = [line for line in seen if re.search(r"\d+/1920", line)]
    assert any(re.search(r"\d/s, \d+:\d\d left$", line) for line in bars)
    assert all(len(line) <= COLUMNS for line in seen)
    # The bar is gone, and the table is a block an arm.
    assert not any("/1920" in line for line in lines)
    block = lines[lines.index("test  student") :]
    assert re.match(r"  AUROC \(95 %\) +[.\d]+ \([.\d]+–[.\d]+\)†?$", block[1])
    assert "test  baseline" in lines
    assert "test  teacher" in lines


def test_the_same_on_a_wide_one_is_a_table(squares, tmp_path):
    lines, _ = show(["compare", squares / "run", squares / "run"], tmp_path, 140)
    assert any("AUROC (95 %)" in line and "accuracy (95 %)" in line for line in lines)


def test_a_list_of_a_store_fits(tmp_path, medal):
    make_cache(tmp_path / "chest.zarr")
    medal("push", tmp_path / "chest.zarr", tmp_path / "lab", "--yes", "--as", "a long name of somebody from the lab")
    lines, _ = show(["list", tmp_path / "lab"], tmp_path)
    assert all(len(line) <= COLUMNS for line in lines)
    assert any(re.match(r"  by +a long name of somebody", line) for line in lines)
    wide, _ = show(["list", tmp_path / "lab"], tmp_path, 200)
    assert wide[0].split() == ["id", "dataset", "task", "rows", "teacher", "auroc", "views", "MB", "by", "when"]


def test_a_table_is_stacked_where_it_is_too_wide_and_never_where_width_is_no_matter():
    table = Table("", ["", "", "AUROC", "accuracy"], [["test", "student", ".9", ".8"], ["test", "teacher", ".7", ".6"]])
    assert len(table.text().splitlines()) == 4
    assert table.text(80, 2) == table.text()
    assert table.text(20, 2).splitlines() == [
        "test  student",
        "  AUROC     .9",
        "  accuracy  .8",
        "test  teacher",
        "  AUROC     .7",
        "  accuracy  .6",
    ]
    assert stack(["name", "x"], [["a", "1"]]) == ["a", "  x  1"]
    assert [_clock(seconds) for seconds in (0.4, 59.6, 3600, 36061)] == ["0:00", "1:00", "1:00:00", "10:01:01"]


def words_of(lines):
    return " ".join(lines).split()


def test_an_error_is_wrapped_between_words_and_its_command_is_whole(tmp_path):
    """The same words as without a terminal: where the terminal breaks a line, half a word stands on either side."""
    words = ["show", tmp_path / ("a_folder_of_a_long_name_" * 4) / "soft.zarr"]
    piped = subprocess.run(
        [sys.executable, "-m", "medal", *map(str, words)], capture_output=True, text=True, check=False
    ).stderr
    assert len(piped.strip()) > 2 * COLUMNS
    wide, _ = show(words, tmp_path, columns=400, status=1)
    lines, _ = show(words, tmp_path, columns=COLUMNS, status=1)
    assert words_of(wide) == piped.split()
    # Only the name and the command, which stay whole, are longer than a line.
    name, command = re.search(r"'.*?'", piped)[0], piped[piped.index("medal cache-teacher") :].strip()
    assert "".join(lines).count(name) == 1
    assert any(line.startswith("medal cache-teacher DATASET ") for line in lines)
    assert "".join(lines).endswith(command)


def test_a_verdict_is_wrapped_between_words(squares, tmp_path):
    words = ["compare", squares / "run", squares / "run"]
    lines, _ = show(words, tmp_path)
    wide, _ = show(words, tmp_path, 400)
    (sentence,) = [line for line in wide if "McNemar" in line]
    assert len(sentence) > 2 * COLUMNS
    start = next(number for number, line in enumerate(lines) if line.startswith(sentence[:20]))
    assert words_of(lines[start:])[: len(sentence.split())] == sentence.split()


def test_what_is_wrapped_and_what_is_not():
    assert wrap("x" * 90, 80) == "x" * 90
    assert wrap("one two three", None) == wrap("one two three", 13) == "one two three"
    assert wrap("one two three", 8) == "one two\nthree"
    assert wrap("  one two 'a name' three", 10) == "  one two\n  'a name'\n  three"
    assert wrap("key   one two three", 11, hang=6) == "key   one\n      two\n      three"
    assert wrap("Continue with: medal show a b c d e f", 20) == "Continue with:\nmedal show a b c d e f"
    assert wrap("a b\nc d", 3) == "a b\nc d"
