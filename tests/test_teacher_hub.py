"""Teachers from the hub's cache and from a hub of our own on the loopback, and every refusal."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from teacher_folders import COMMIT, CONFIG, WEIGHTS, hub_cache, index_of

from medal.pipeline.teacher.files import locate_teacher

LOCATE = """
import json, sys
from medal.cache.errors import TeacherError
from medal.pipeline.teacher.files import locate_teacher
for teacher, revision in json.loads(sys.argv[1]):
    try:
        files = locate_teacher(teacher, revision)
        print(json.dumps([files.name, files.revision, sorted(path.name for path in files.folder.iterdir())]))
    except TeacherError as error:
        print(json.dumps(str(error)))
assert not {"torch", "transformers"} & set(sys.modules)
"""


def run_locate(cache: Path, *teachers: str, endpoint="http://127.0.0.1:9", revision=None, code=LOCATE, **env: str):
    """Locate teachers in a process of its own, as huggingface_hub reads its environment once, when it is imported."""
    own = {
        "HF_HUB_CACHE": str(cache),
        "HF_ENDPOINT": endpoint,
        "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps([(teacher, revision) for teacher in teachers])],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**kept, **own, **env},
    )


def locate(cache: Path, *teachers: str, **how: str):
    done = run_locate(cache, *teachers, **how)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return found if len(found) > 1 else found[0]


@contextmanager
def serving(models: dict[str, dict[str, bytes] | tuple[int, str]]):
    """A hub on the loopback: id → files, or the status and error code it answers with. Yields address and requests."""
    asked: Counter[str] = Counter()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            asked[urlsplit(self.path).path] += 1
            self.answer(body=True)

        def answer(self, *, body):
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            repository = "/".join(parts[2:4] if api else parts[:2])
            model = models.get(repository, (404, "RepoNotFound"))
            revision, name = (parts[5] if len(parts) > 5 else "main", None) if api else (parts[3], "/".join(parts[4:]))
            if isinstance(model, tuple):
                return self.reply(*model, b"", body)
            if revision not in {"main", COMMIT}:
                return self.reply(404, "RevisionNotFound", b"", body)
            if api:
                listing = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": item} for item in model]}
                return self.reply(200, None, json.dumps(listing).encode(), body)
            return (
                self.reply(200, None, model[name], body)
                if name in model
                else self.reply(404, "EntryNotFound", b"", body)
            )

        def reply(self, status, code, content, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


GOOD = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": WEIGHTS}


def test_the_local_cache_of_the_hub_needs_no_network(tmp_path):
    hub_cache(tmp_path, "lab/xray-dino", model__safetensors=WEIGHTS)
    expected = ["lab/xray-dino", COMMIT, ["config.json", "model.safetensors"]]
    assert locate(tmp_path, "lab/xray-dino") == expected
    assert locate(tmp_path, "lab/xray-dino", HF_HUB_OFFLINE="1") == expected
    assert locate(tmp_path, "lab/xray-dino", revision=COMMIT) == expected


def test_a_folder_inside_the_hubs_cache_keeps_its_id(tmp_path):
    folder = hub_cache(tmp_path, "lab/xray-dino", model__safetensors=WEIGHTS)
    files = locate_teacher(str(folder))
    assert (files.name, files.revision) == ("lab/xray-dino", COMMIT)


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_network_the_remedy_is_a_folder(tmp_path, env):
    # The second one is in the cache, but only its configuration.
    hub_cache(tmp_path, "lab/half")
    for told in locate(tmp_path, "lab/none", "lab/half", **env):
        assert "is not in the local Hugging Face cache and could not be downloaded" in told
        assert "--teacher" in told


def test_a_hub_that_cannot_be_reached_is_asked_once_and_without_a_word(tmp_path):
    with serving({"lab/busy": (503, "")}) as (endpoint, _):
        for where in (endpoint, "http://127.0.0.1:9"):
            begun = time.monotonic()
            done = run_locate(tmp_path, "lab/busy", endpoint=where)
            assert time.monotonic() - begun < 15  # six tries of huggingface_hub take 23 s
            assert "could not be downloaded" in done.stdout
            assert done.stderr == ""


def test_a_hub_that_never_ends_its_answer_is_not_waited_for(tmp_path):
    def trickle(server):
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while time.monotonic() - begun < 30:
                connection.sendall(b"z")
                time.sleep(0.1)

    quick = "import medal.pipeline.teacher.hub as hub; hub.TIMEOUT_SECONDS = 2.0\n" + LOCATE
    with socket.create_server(("127.0.0.1", 0)) as server:
        begun = time.monotonic()
        trickling = Thread(target=trickle, args=(server,))
        trickling.start()
        done = run_locate(tmp_path, "lab/slow", endpoint=f"http://127.0.0.1:{server.getsockname()[1]}", code=quick)
        trickling.join()
    assert time.monotonic() - begun < 15
    assert "could not be downloaded (TimeoutError)" in done.stdout
    assert done.stderr == ""


def test_a_download_takes_what_is_needed_and_nothing_else_and_once(tmp_path):
    files = {
        **GOOD,
        "pytorch_model.bin": b"pickle",
        "preprocessor_config.json": b"{}",
        "trap.py": b"",
        "README.md": b"",
    }
    with serving({"lab/good": files}) as (endpoint, asked):
        name, revision, got = locate(tmp_path, "lab/good", endpoint=endpoint)
    assert (name, revision) == ("lab/good", COMMIT)
    assert got == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert not any("pickle" in path or path.endswith((".bin", ".py", ".md")) for path in asked)
    assert locate(tmp_path, "lab/good") == ["lab/good", COMMIT, got]


def test_sharded_weights_are_downloaded_too(tmp_path):
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    files = {"config.json": GOOD["config.json"], "model.safetensors.index.json": index_of(*shards)}
    with serving({"lab/big": {**files, **dict.fromkeys(shards, WEIGHTS)}}) as (endpoint, _):
        assert locate(tmp_path, "lab/big", endpoint=endpoint)[2] == sorted([*files, *shards])


def test_every_refusal_of_the_hub_has_its_own_sentence(tmp_path):
    models = {
        "lab/gated": (403, "GatedRepo"),
        "lab/bert": {"config.json": b'{"model_type": "bert"}', "model.safetensors": WEIGHTS},
        "lab/pickled": {"config.json": GOOD["config.json"], "pytorch_model.bin": b""},
        "lab/bare": {"README.md": b""},
        "lab/broken": (400, ""),
    }
    told = {
        "lab/gated": "is gated; ask for access",
        "lab/unknown": "neither a folder here nor a model on the Hugging Face hub",
        "lab/bert": "model_type 'bert'",
        "lab/pickled": "has no weights",
        "lab/bare": "has no config.json",
        "lab/broken": "could not be downloaded",
        "lab/not--valid": "neither a folder here nor a model",
    }
    with serving(models) as (endpoint, asked):
        for sentence, (name, expected) in zip(locate(tmp_path, *told, endpoint=endpoint), told.items(), strict=True):
            assert f"Teacher '{name}'" in sentence
            assert expected in sentence
        assert not any(path.endswith((".safetensors", ".bin")) for path in asked)
        sentence = locate(tmp_path, "lab/bert", endpoint=endpoint, revision="v9")
    assert sentence.startswith("Teacher 'lab/bert' at revision 'v9' has no such revision")


def test_a_partial_snapshot_gets_the_normalisation_it_lacks_from_the_hub(tmp_path):
    hub_cache(tmp_path, "lab/part", model__safetensors=WEIGHTS)
    with serving({"lab/part": {**GOOD, "preprocessor_config.json": b"{}"}}) as (endpoint, asked):
        got = locate(tmp_path, "lab/part", endpoint=endpoint)[2]
    assert got == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert [path for path in asked if "safetensors" in path] == []


def test_a_model_without_a_normalisation_is_asked_for_it_once(tmp_path):
    hub_cache(tmp_path, "lab/bare", model__safetensors=WEIGHTS)
    for _ in range(2):
        with serving({"lab/bare": GOOD}) as (endpoint, _):
            assert locate(tmp_path, "lab/bare", endpoint=endpoint)[2] == ["config.json", "model.safetensors"]
    assert (tmp_path / "models--lab--bare/.no_exist" / COMMIT / "preprocessor_config.json").is_file()
