"""What medal chooses on a machine that others use too, beside the best fixed number of threads.

    python benchmarks/busy.py [--neighbours 1] [--rounds 3] [--quick]

`--neighbours` processes multiply matrices, each on one thread, for as long as the measurement lasts. The teacher's
forward pass and a training step of a resnet18 at 64 px are timed by the clock on the wall: with each fixed number of
threads, and as medal does it. Each runs in a process of its own that waits for its turn. Threads wait for each other
passively in all of them, except in those marked `spinning`, which have OpenMP's own way.

`over_best` is medal's time over that of the best fixed number, the median over the rounds. It should be at most 1.3.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from medal.cache.machine.processors import usable_processors

SHARED = Path(os.environ.get("MEDAL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
LIMIT = 1.3
BUSY = "import numpy; a = numpy.ones((512, 512), numpy.float32)\nwhile True: a @ a"


def be_child(job: str, threads: str, teacher: str, folder: str) -> None:
    """Do the job once for each line that is read, and answer with its seconds."""
    import torch

    if threads != "auto":
        torch.set_num_threads(int(threads))
    act = {"forward": forward, "forward_plain": plain_forward, "step": step}[job](threads, teacher, folder)
    act()
    for _ in sys.stdin:
        begun = time.perf_counter()
        act()
        print(time.perf_counter() - begun, flush=True)


def forward(_threads: str, teacher: str, folder: str) -> Callable[[], object]:
    """Return medal's forward pass of 16 images."""
    import torch

    from medal.pipeline.teacher.demo import tiny_teacher
    from medal.pipeline.teacher.files import default_preprocessing, locate_teacher
    from medal.pipeline.teacher.teacher import Teacher, pick_device, precision_for

    files = locate_teacher(teacher or str(tiny_teacher(Path(folder))))
    model = Teacher.load(files, feature="cls+mean", precision=precision_for("auto", pick_device("cpu")), device="cpu")
    spec = default_preprocessing(files, image_size=112)
    pixels = torch.rand(16, 3, 112, 112) * 255
    return lambda: model.features(pixels, spec)


def plain_forward(threads: str, teacher: str, folder: str) -> Callable[[], object]:
    """Return the same with threads that share each operation, as torch does by itself."""
    from medal.pipeline.teacher import teacher as module

    module.side_by_side = lambda compute, parts: [compute(part) for part in parts]
    return forward(threads, teacher, folder)


def step(threads: str, _teacher: str, _folder: str) -> Callable[[], object]:
    """Return a training step of 16 images; the threads are those that a training would choose now."""
    import timm
    import torch

    from medal.student.network.plan import Plan
    from medal.student.network.race import Step, measured_images
    from medal.student.network.speed import choose_threads

    model, plan = timm.create_model("resnet18", num_classes=2), Plan(precision="fp32", channels_last=False)
    if threads == "auto":
        torch.set_num_threads(choose_threads(model, plan, 64, "cpu"))
    made = Step(model, plan, measured_images(64), "cpu")
    return lambda: [made.seconds() for _ in range(3)]


class Turn:
    """A child that waits for its turn."""

    def __init__(self, job: str, threads: str, teacher: str, folder: str, *, spinning: bool = False) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
        if not spinning:
            environment["OMP_WAIT_POLICY"] = "PASSIVE"
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", job, threads, teacher, folder],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self) -> float:
        """Let it do its job once."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        """Let it go."""
        self._process.kill()
        self._process.wait()


def measure(job: str, rounds: int, teacher: str, folder: str) -> dict[str, object]:
    """Let all take turns and return the figures of one job."""
    counts = sorted({1, usable_processors()})
    fixed = "forward_plain" if job == "forward" else job
    turns = {str(count): Turn(fixed, str(count), teacher, folder) for count in counts}
    turns |= {f"{count} spinning": Turn(fixed, str(count), teacher, folder, spinning=True) for count in counts[1:]}
    turns["medal"] = Turn(job, "auto", teacher, folder)
    try:
        for turn in turns.values():
            turn.seconds()
        seconds = [{name: turn.seconds() for name, turn in turns.items()} for _ in range(rounds)]
    finally:
        for turn in turns.values():
            turn.end()
    best = min(map(str, counts), key=lambda name: statistics.median(one[name] for one in seconds))
    return {
        "seconds": {name: round(statistics.median(one[name] for one in seconds), 3) for name in turns},
        "best_fixed": best,
        "over_best": round(statistics.median(one["medal"] / one[best] for one in seconds), 2),
    }


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--teacher", default=os.environ.get("MEDAL_TEACHER", SHARED / "teachers/dinov2-small"))
    parser.add_argument("--neighbours", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke test on small parts, figures of no worth")
    asked = parser.parse_args()
    teacher = "" if asked.quick else str(asked.teacher)
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    busy = [subprocess.Popen([sys.executable, "-c", BUSY], env=alone) for _ in range(asked.neighbours)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            rounds = 1 if asked.quick else asked.rounds
            jobs = {job: measure(job, rounds, teacher, folder) for job in ("forward", "step")}
    finally:
        for process in busy:
            process.kill()
            process.wait()
    for job, figures in jobs.items():
        print(job, json.dumps(figures))
    holds = all(float(str(figures["over_best"])) <= LIMIT for figures in jobs.values())
    told = {"script": "busy.py", "processors": usable_processors(), "neighbours": asked.neighbours}
    print(json.dumps(told | {"limit": LIMIT, "holds": holds, **jobs}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        be_child(*sys.argv[2:])
    else:
        main()
