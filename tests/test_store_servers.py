"""Stores on real servers: SFTP on OpenSSH, S3 on moto, HTTPS on nginx, each with members in processes of their own."""

import json
import re
import shutil
import subprocess

import pytest
from store_cases import make_cache, member, whole
from store_servers import https_server, s3_server, sftp_server

from medal.cache.store.place.layout import Entry


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache") / "chest.zarr")


@pytest.fixture
def ask(shell):
    """Run a command as a member and return its JSON result."""

    def run(*words, env):
        done = shell(*words, "--json", env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def ssh_key(folder):
    """Make the key of a member, and return a file that allows it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "ana.key"], check=True)
    signers = folder / "signers"
    signers.write_text(f"ana {(folder / 'ana.key.pub').read_text()}")
    return signers


def check_life(cache, url, env, ask, shell, tmp_path):
    """All five commands, from two home folders."""
    assert ask("push", "--yes", cache.path, url, "--as", "Ana", env=env)["action"] == "pushed"
    assert ask("push", "--yes", cache.path, url, env=env)["action"] == "there"
    other = {**env, "MEDAL_HOME": str(tmp_path / "other home")}
    assert [one["by"] for one in ask("list", url, env=other)["caches"]] == ["Ana"]
    assert ask("pull", "chest", url, tmp_path / "got.h5", env=other)["action"] == "pulled"
    assert whole(tmp_path / "got.h5").seal == cache.seal
    assert ask("remove", cache.cache_id, url, env=other)["waiting"] == 1
    assert ask("list", url, env=env)["caches"] == []
    gone = shell("pull", "chest", url, tmp_path / "x.zarr", env=env)
    assert (gone.returncode, "has no cache 'chest'" in gone.stderr) == (1, True)
    young = ask("gc", url, env=env)
    assert (young["removed"], young["waiting"]) == (0, 1)
    assert ask("gc", url, "--now", env=env)["removed"] == 1
    assert ask("gc", url, "--now", env=env)["removed"] == 0


def test_sftp(cache, ask, shell, tmp_path):
    env = member(tmp_path / "ana")
    store = tmp_path / "srv/store"
    store.mkdir(parents=True)
    store.chmod(0o2775)  # a group's
    with sftp_server(tmp_path, tmp_path / "ana") as url:
        check_life(cache, url, env, ask, shell, tmp_path)
        left = sorted(path.name for path in store.rglob("*") if path.is_file() and path.parent.name != "unlisted")
        assert left == ["index.jsonl", "medal-store.json"]
        modes = {(path.is_dir(), oct(path.stat().st_mode & 0o7777)) for path in (store, *store.rglob("*"))}
        assert modes == {(True, "0o2775"), (False, "0o664")}
        # A server of which nothing is known may be anybody.
        (tmp_path / "ana/.ssh/known_hosts").write_text("")
        stranger = shell("list", url, env=env)
        assert stranger.returncode == 1
        assert "not found in known_hosts" in stranger.stderr
        assert "Traceback" not in stranger.stderr


def test_s3(cache, ask, shell, tmp_path):
    with s3_server(tmp_path) as (url, keys):
        check_life(cache, url, {**member(tmp_path / "ana"), **keys}, ask, shell, tmp_path)


def test_https_is_read_only(cache, ask, shell, medal, tmp_path):
    env = member(tmp_path / "ana")
    medal("push", "--yes", cache.path, tmp_path / "www/store")
    with https_server(tmp_path, tmp_path / "www") as (url, trust):
        env = {**env, **trust}
        assert [one["dataset"] for one in ask("list", url, env=env)["caches"]] == ["chest"]
        assert ask("pull", cache.cache_id[:8], url, tmp_path / "got.zarr", env=env)["action"] == "pulled"
        assert whole(tmp_path / "got.zarr").seal == cache.seal
        assert ask("show", f"{url}#chest", env=env)["content_digest"] == cache.content_digest
        signers = ssh_key(tmp_path)
        trusted = ("pull", "chest", url, tmp_path / "signed.zarr", "--signers", signers)
        unsigned = shell(*trusted, env=env)
        assert (unsigned.returncode, "is not signed" in unsigned.stderr) == (1, True)
        medal("push", "--yes", cache.path, tmp_path / "www/store", "--sign", tmp_path / "ana.key")
        assert ask(*trusted, env=env)["action"] == "pulled"
        assert ask("verify", tmp_path / "signed.zarr", "--signers", signers, env=env)["ok"]
        for words in (("push", "--yes", cache.path, url), ("remove", "chest", url), ("gc", url)):
            refused = shell(*words, env=env)
            assert (refused.returncode, "is read only" in refused.stderr) == (1, True), words
        # Tampered with on the server.
        (part,) = (tmp_path / "www/store/sets").glob("*/*.part")
        part.write_bytes(bytes(part.stat().st_size))
        refused = shell("pull", "chest", url, tmp_path / "x.zarr", env=env)
        assert (refused.returncode, "does not have the SHA-256" in refused.stderr) == (1, True)
        part.write_bytes(bytes(part.stat().st_size + 5000))
        refused = shell("pull", "chest", url, tmp_path / "x.zarr", env=env)
        assert (refused.returncode, "is longer than its limit" in refused.stderr) == (1, True)
    away = shell("list", url, env=env)
    assert away.returncode == 1
    assert "could not be used" in away.stderr
    assert "Traceback" not in away.stderr


def many_entries(cache, count):
    """Entries as so many pushes would leave them."""
    from medal.cache.store.place.layout import summarize

    for number in range(count):
        yield Entry(
            cache_id=f"{number:032x}",
            content_digest=f"{number:064x}",
            manifest_sha256="0" * 64,
            listing_sha256="0" * 64,
            token=f"{number:016x}",
            published=number,
            by=None,
            size=1000,
            summary=summarize(cache.manifest),
        )


def test_ten_thousand_entries_in_a_folder_are_listed_from_the_index(cache, tmp_path, medal, monkeypatch):
    from medal.cache.store.place import entries as module
    from medal.cache.store.place.files import Folder

    medal("push", "--yes", cache.path, tmp_path / "store")
    with (tmp_path / "store/index.jsonl").open("ab") as index:
        for entry in many_entries(cache, 10_000):
            (tmp_path / "store/entries" / entry.name).write_bytes(entry.to_bytes())
            index.write(entry.to_bytes() + b"\n")
    read = []
    original = Folder.read
    monkeypatch.setattr(Folder, "read", lambda self, name, limit: read.append(name) or original(self, name, limit))
    assert len(medal("list", tmp_path / "store")["caches"]) == 10_001
    assert read == ["medal-store.json", module.INDEX]


@pytest.mark.slow
def test_ten_thousand_entries_on_s3_take_few_requests(cache, ask, tmp_path):
    log = tmp_path / "requests.log"
    with s3_server(tmp_path, counter=log) as (url, keys):
        env = {**member(tmp_path / "ana"), **keys}
        ask("push", "--yes", cache.path, url, env=env)
        import s3fs

        fs = s3fs.S3FileSystem(key="testing", secret="testing", endpoint_url=keys["AWS_ENDPOINT_URL"])  # noqa: S106
        entries = list(many_entries(cache, 10_000))
        fs.pipe({f"{url[5:]}/entries/{entry.name}": entry.to_bytes() for entry in entries})
        index = fs.cat_file(f"{url[5:]}/index.jsonl")
        fs.pipe_file(f"{url[5:]}/index.jsonl", index + b"".join(entry.to_bytes() + b"\n" for entry in entries))
        before = len(re.findall(r"HTTP/1\.", log.read_text()))
        assert len(ask("list", url, env=env)["caches"]) == 10_001
        assert 0 < len(re.findall(r"HTTP/1\.", log.read_text())) - before <= 20


def test_a_store_copied_as_a_folder_is_the_same_store(cache, tmp_path, medal):
    medal("push", "--yes", cache.path, tmp_path / "store")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    medal("pull", "chest", tmp_path / "copy", tmp_path / "got.zarr")
    assert whole(tmp_path / "got.zarr").seal == cache.seal
