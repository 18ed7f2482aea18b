"""The search of `medal audit` on many rows: near-duplicates that are planted, doubtful labels, probes; time and memory.

    python benchmarks/audit.py [--rows 100000] [--features 768] [--quick]

A child process holds float16 features, keys and logits as `medal audit` has read them, and runs all of its checks.
Printed are a table and one line of JSON.
"""

import argparse
import json
import subprocess
import sys

LIMITS = {"seconds": 60.0, "peak_bytes": 2e9}
RUN = """
import json, sys, time
from contextlib import contextmanager, nullcontext
import numpy as np
from medal.pipeline.audit.report import examine
from medal.pipeline.audit.subject import Subject
from medal.pipeline.datasets.columns.dataset import Dataset
from medal.pipeline.datasets.columns.units import find_units, image_numbers

rows, width = int(sys.argv[1]), int(sys.argv[2])
draw = np.random.default_rng(0)
feature = np.empty((rows, width), np.float16)
label = draw.integers(0, 10, rows).astype(np.int32)
centre = draw.standard_normal((10, width)).astype(np.float32)
# A spectrum that falls as real features' does, and one copy in a hundred rows, a little moved.
scale = (1 / np.sqrt(1 + np.arange(width))).astype(np.float32)
for start in range(0, rows, 10000):
    part = slice(start, min(rows, start + 10000))
    noise = draw.standard_normal((part.stop - start, width), np.float32)
    feature[part] = (noise + centre[label[part]] * 0.3) * scale
copies = draw.permutation(rows)[: rows // 50].reshape(-1, 2)
moved = draw.standard_normal((len(copies), width), np.float32) * scale * 0.2
feature[copies[:, 1]] = feature[copies[:, 0]] + moved
label[copies[:, 1]] = label[copies[:, 0]]
key = draw.integers(0, 256, (rows, 16), np.uint8)
nothing = np.full(rows, -1, np.int32)
logits = draw.standard_normal((rows, 10)).astype(np.float32)
logits[np.arange(rows), label] += 3
split = np.repeat(np.array([0, 1, 2], np.int8), [rows * 8 // 10, rows // 10, rows - rows * 8 // 10 - rows // 10])


of = np.arange(rows)
of[copies[:, 1]] = copies[:, 0]


class Drawn:
    def __len__(self): return rows
    def key(self, row): return key[row].tobytes()
    def remembering(self): return nullcontext(self)
    def read(self, row):
        # A copy is a little brighter.
        return np.random.default_rng(of[row]).integers(0, 200, (28, 28, 1), np.uint8) + np.uint8(20 * (of[row] != row))
    def describe(self, row): return f"image {row}"
    def locate(self, row):
        from medal.pipeline.datasets.columns.dataset import Place
        return Place(array="images", row=row)


@contextmanager
def quiet(*_):
    yield lambda _: None


classes = tuple(map(str, range(10)))
dataset = Dataset(name="drawn", task="multiclass", classes=classes, images=Drawn(), label=label, split=split,
                  domain=nothing.astype(np.int16), group=nothing.astype(np.int64))
begun, begun_cpu = time.perf_counter(), time.process_time()
subject = Subject(
    name="drawn", task="multiclass", classes=classes, domains=(), splits=("train", "val", "test"), split=split, key=key,
    image=image_numbers(key), unit=find_units(key, nothing), label=label, logits=logits, fold=np.zeros(rows, np.int8),
    group=nothing, domain=nothing.astype(np.int16), feature=feature, views=None, temperature=1.0,
    source=np.arange(rows), dataset=dataset, notes=(),
)
found = examine(subject, quiet)
seconds = time.perf_counter() - begun
cpu = time.process_time() - begun_cpu
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
wanted = {tuple(sorted(pair)) for pair in copies.tolist()}
got = {tuple(sorted((one.row, *one.related))) for check in found.findings if check.check.startswith("near")
       for one in check.advice}
hits = len(wanted & got)
import torch
print(json.dumps({"seconds": seconds,
                  "cpu_seconds": cpu, "peak_bytes": int(peak) * 1024, "threads": torch.get_num_threads(),
                  "planted": len(wanted), "pairs": len(got), "recall": hits / len(wanted),
                  "precision": hits / max(1, len(got))}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--quick", action="store_true", help="a smoke test of a few seconds")
    asked = parser.parse_args()
    rows = 2_000 if asked.quick else asked.rows
    words = [sys.executable, "-c", RUN, str(rows), str(asked.features)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    figures = {"rows": rows, "features": asked.features, **measured}
    figures["holds"] = {name: figures[name] <= limit for name, limit in LIMITS.items()}
    for name, value in figures.items():
        if name != "holds":
            limit = f"   at most {LIMITS[name]:,.0f}" if name in LIMITS else ""
            print(f"{name:12} {value:18,.3f}{limit}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
