"""`python -m medal` without the seconds of its start: forks of a process that has the libraries loaded.

A fork is told the command, the folder, the environment and where its output goes; it then runs the module `medal` as
its main program and ends as any interpreter does, so that exit codes, signals and what is printed are the same. What a
library reads of the environment while it is imported cannot be changed any more: a command that is given such a
variable starts anew (`Forks.run` decides, by `_READ_LATE`). So do tests of imports and of kills.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

# Medal's own commands and their children read these, each time anew; libraries set the last two themselves.
_READ_LATE = ("MEDAL_", "AWS_", "PIP_", "PYTEST_", "XDG_CONFIG_HOME", "KMP_", "TORCHINDUCTOR_")
_LIBRARIES = (
    "accelerate",
    "fsspec",
    "h5py",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "rich.progress",
    "safetensors.torch",
    "scipy.optimize",
    "sklearn.linear_model",
    "sklearn.metrics",
    "timm",
    "torch",
    "torchvision",
    "transformers.models.dinov2.modeling_dinov2",
    "zarr",
    "medal.pipeline.api",
    "medal.student.api",
)
_SECONDS = 300


class Forks:
    """The tests' side: starts the process that forks on first use, and runs commands one at a time."""

    def __init__(self) -> None:
        self._server: subprocess.Popen | None = None
        self._before: dict[str, str] = {}
        self._line = threading.Lock()
        self.child = 0  # the fork that runs, or ran last

    def run(self, words: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
        """Run a command as `subprocess.run` would, in a fork if its environment allows that."""
        with self._line:
            if self._server is None:
                self._start()
            changed = dict(environment.items() ^ self._before.items())
            if not all(name.startswith(_READ_LATE) for name in changed):
                return start_cold(words, folder, environment)
            return self._fork(words, folder, environment)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._before = dict(os.environ)
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        self._socket = ours

    def _fork(self, words, folder, environment):
        read = {}
        outs, threads = [], []
        for name in ("stdout", "stderr"):
            end, other = os.pipe()
            outs.append(other)
            threads.append(threading.Thread(target=self._read, args=(read, name, end), daemon=True))
            threads[-1].start()
        told = json.dumps({"words": words, "folder": str(folder), "environment": environment}).encode()
        socket.send_fds(self._socket, [len(told).to_bytes(8, "big")], outs)
        self._socket.sendall(told)
        for end in outs:
            os.close(end)
        self.child = int(self._answer())
        timer = threading.Timer(_SECONDS, os.kill, (self.child, signal.SIGKILL))
        timer.start()
        status = int(self._answer())
        for thread in threads:
            thread.join(_SECONDS)
        late = not timer.is_alive() or any(thread.is_alive() for thread in threads)
        timer.cancel()
        if late:
            raise subprocess.TimeoutExpired(words, _SECONDS, read.get("stdout"), read.get("stderr"))
        return subprocess.CompletedProcess(words, status, read["stdout"], read["stderr"])

    @staticmethod
    def _read(read, name, end):
        with open(end, encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            read[name] = file.read()

    def _answer(self) -> bytes:
        answer = self._socket.recv(16, socket.MSG_WAITALL)
        assert len(answer) == 16, "the process that forks has ended"
        return answer

    def close(self) -> None:
        """End the process that forks."""
        if self._server is not None:
            self._socket.close()
            self._server.wait(60)


def start_cold(words: list[str], folder: Path | None, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Run a command in a process that starts from nothing, as a user's does."""
    return subprocess.run(
        [sys.executable, "-m", "medal", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
        timeout=_SECONDS,
    )


def serve(ours: socket.socket) -> dict | None:
    """Fork for every request and say how the fork ended; return the request in a fork, and None at the end."""
    while True:
        head, outs, _, _ = socket.recv_fds(ours, 8, 2)
        if not head:
            return None
        told = ours.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
        child = os.fork()
        if child == 0:
            ours.close()
            for out, number in zip(outs, (1, 2), strict=True):
                os.dup2(out, number)
                os.close(out)
            return json.loads(told)
        for out in outs:
            os.close(out)
        ours.sendall(b"%16d" % child)
        _, status = os.waitpid(child, 0)
        ours.sendall(b"%16d" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    import gc
    import importlib
    import runpy

    for library in _LIBRARIES:
        importlib.import_module(library)
    assert len(list(Path("/proc/self/task").glob("*"))) <= 1, "a process with threads cannot be forked"
    gc.freeze()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        os._exit(0)  # nothing is left to do, and libraries take their time to end
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv = ["-m", *request["words"]]
    runpy.run_module("medal", run_name="__main__", alter_sys=True)
