"""Finding a teacher: folders, the hub's cache and a hub of our own on the loopback, and every refusal."""

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

from medal.cache.errors import TeacherError
from medal.pipeline.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from medal.pipeline.teacher_files import check_image_size, default_preprocessing, feature_dim, locate_teacher

CONFIG = {"model_type": "dinov2", "hidden_size": 8, "num_hidden_layers": 4, "patch_size": 14}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = b"weights, for who only hashes them"


def make_teacher(folder: Path, config=CONFIG, **files: bytes) -> Path:
    """A folder with a config.json and whatever other files, `__` standing for a dot."""
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def index_of(*names: str) -> bytes:
    return json.dumps({"weight_map": {f"tensor.{i}": name for i, name in enumerate(names)}}).encode()


# ── Folders ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_known_by_its_last_name_and_its_bytes(tmp_path, monkeypatch):
    folder = make_teacher(tmp_path / "our-teacher", model__safetensors=WEIGHTS)
    files = locate_teacher(str(folder))
    assert (files.name, files.revision, files.folder, files.config) == ("our-teacher", None, folder, CONFIG)
    assert files.weights_sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    monkeypatch.chdir(folder)
    assert locate_teacher(".").name == "our-teacher"
    (tmp_path / "link").symlink_to(folder)
    assert locate_teacher(f"{tmp_path}/link/").name == "link"


def test_the_real_teacher_has_the_sha256_of_its_source(teacher):
    assert locate_teacher(str(teacher)).weights_sha256.startswith("8b38fc0f3652d5a3")


def test_shards_are_digested_whatever_their_names(tmp_path):
    one = make_teacher(
        tmp_path / "one", a__safetensors=b"1", b__safetensors=b"2",
        model__safetensors__index__json=index_of("a.safetensors", "b.safetensors", "a.safetensors"),
    )  # fmt: skip
    two = make_teacher(
        tmp_path / "two", x__safetensors=b"2", y__safetensors=b"1",
        model__safetensors__index__json=index_of("x.safetensors", "y.safetensors"),
    )  # fmt: skip
    lines = sorted(hashlib.sha256(content).hexdigest() + "\n" for content in (b"1", b"2"))
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert locate_teacher(str(one)).weights_sha256 == locate_teacher(str(two)).weights_sha256 == expected


@pytest.mark.parametrize(
    ("config", "files", "told"),
    [
        (None, {"model__safetensors": WEIGHTS}, "has no config.json"),
        (CONFIG, {}, "no weights: expected 'model.safetensors'"),
        (CONFIG, {"pytorch_model__bin": b""}, "'pytorch_model.bin', a pickle.*save_pretrained"),
        (CONFIG, {"teacher__pth": b""}, "'teacher.pth', a pickle"),
        (CONFIG, {"dinov2__safetensors": WEIGHTS}, "got 'dinov2.safetensors'; rename"),
        (CONFIG, {"model__safetensors__index__json": index_of("a.safetensors")}, "lacks 1 of the 1 .*'a.safetensors'"),
        (CONFIG, {"model__safetensors__index__json": index_of("../a.safetensors")}, r"names '\.\./a\.safetensors'"),
        (CONFIG, {"model__safetensors__index__json": index_of("a.bin"), "a__bin": b""}, "names 'a.bin'"),
        (CONFIG, {"model__safetensors__index__json": b"{}"}, "lists no weights"),
        (CONFIG, {"model__safetensors__index__json": b"{"}, "cannot be read as JSON"),
        ([], {"model__safetensors": WEIGHTS}, "must hold a JSON object, got list"),
        ({**CONFIG, "model_type": "vit"}, {"model__safetensors": WEIGHTS}, "model_type 'vit', expected 'dinov2' or"),
        ({}, {"model__safetensors": WEIGHTS}, "model_type None"),
        ({**CONFIG, "hidden_size": "8"}, {"model__safetensors": WEIGHTS}, "'hidden_size' .*got '8'"),
    ],
)
def test_a_folder_that_cannot_be_a_teacher_is_refused(tmp_path, config, files, told):
    make_teacher(tmp_path / "bad", config, **files)
    with pytest.raises(TeacherError, match=told) as refusal:
        locate_teacher(str(tmp_path / "bad"))
    assert "'bad'" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "~/none at all", "org/", ""])
def test_what_is_neither_folder_nor_id_is_refused(name):
    with pytest.raises(TeacherError, match="neither a folder that exists nor a Hugging Face id"):
        locate_teacher(name or " ")


def test_a_folder_has_no_revision(tmp_path):
    make_teacher(tmp_path / "here", model__safetensors=WEIGHTS)
    with pytest.raises(TeacherError, match="--revision"):
        locate_teacher(str(tmp_path / "here"), revision="main")


# ── What the files say ───────────────────────────────────────────────────────────────────────────────────────────


def test_feature_lengths():
    assert feature_dim(CONFIG, "cls+mean") == 16
    assert feature_dim(CONFIG, "last4") == 40
    with pytest.raises(TeacherError, match=r"'cls'; known: cls\+mean, last4"):
        feature_dim(CONFIG, "cls")
    with pytest.raises(TeacherError, match="needs 4 blocks, the teacher has 3"):
        feature_dim({**CONFIG, "num_hidden_layers": 3}, "last4")


@pytest.mark.parametrize(("size", "nearest"), [(225, "224 or 238"), (10, "use 14")])
def test_image_sizes_are_multiples_of_the_patch(size, nearest):
    check_image_size(CONFIG, 224)
    with pytest.raises(TeacherError, match=nearest):
        check_image_size(CONFIG, size)


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        (None, IMAGENET_MEAN, IMAGENET_STD),
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}, (0.5,) * 3, (0.25,) * 3),
        ({"do_normalize": False, "image_mean": [0.5, 0.5, 0.5]}, (0,) * 3, (1,) * 3),
        ({}, IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_the_teachers_own_normalisation_is_used(tmp_path, processor, mean, std):
    folder = make_teacher(tmp_path / "t", model__safetensors=WEIGHTS)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    made = default_preprocessing(locate_teacher(str(folder)), image_size=112, resize="pad", intensity="minmax")
    assert (made.image_size, made.resize, made.intensity, made.mean, made.std) == (112, "pad", "minmax", mean, std)


def test_a_nonsensical_normalisation_is_refused(tmp_path):
    folder = make_teacher(tmp_path / "t", model__safetensors=WEIGHTS, preprocessor_config__json=b'{"image_std": [0]}')
    with pytest.raises(TeacherError, match=r"Teacher 't': .*'std' must be three numbers"):
        default_preprocessing(locate_teacher(str(folder)))


# ── The hub ──────────────────────────────────────────────────────────────────────────────────────────────────────


def hub_cache(root: Path, repository: str, **files: bytes) -> Path:
    """The hub's own layout: refs/main names the commit whose snapshot holds the files."""
    model = root / f"models--{repository.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text(COMMIT)
    return make_teacher(model / "snapshots" / COMMIT, **files)


LOCATE = """
import json, sys
from medal.cache.errors import TeacherError
from medal.pipeline.teacher_files import locate_teacher
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
        capture_output=True, text=True, check=True, timeout=120, env={**kept, **own, **env},
    )  # fmt: skip


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

    quick = "import medal.pipeline.teacher_hub as hub; hub._TIMEOUT_SECONDS = 2.0\n" + LOCATE
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
