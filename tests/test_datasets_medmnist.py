"""`medmnist:`: the official files, checked, from a small server of our own or the package's folder."""

import threading
from hashlib import md5
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from medal.cache.errors import DataError
from medal.pipeline.datasets.kinds.medmnist import load_info, official_file, official_names
from medal.pipeline.datasets.opening import open_dataset


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of our own, so that nobody's files are read or changed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.fixture
def content(tmp_path):
    path = tmp_path / "made.npz"
    labels = np.arange(20)[:, None] % 2
    np.savez(path, train_images=np.zeros((20, 28, 28), np.uint8), train_labels=labels)
    return path.read_bytes()


@pytest.fixture
def server(content):
    """A server that gives the file, half of it, or an error."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/gone.npz":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if self.path == "/half.npz" else content)

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def info_of(address, content):
    return {"toymnist": {"url_64": address, "MD5_64": md5(content, usedforsecurity=False).hexdigest()}}


def test_download_is_checked_and_kept(server, content, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "not/there/yet"
    info = info_of(f"{server}/whole.npz", content)
    path = official_file("toymnist", 64, info, folder)
    assert path == folder / "toymnist_64.npz"
    assert path.read_bytes() == content
    assert official_file("toymnist", 64, info_of("http://127.0.0.1:9/none", content), folder) == path


@pytest.mark.parametrize(
    ("file", "message"),
    [("half.npz", "gave has the MD5|failed"), ("gone.npz", r"failed \(HTTP Error 404.*download it by hand")],
)
def test_a_failed_download_leaves_nothing(server, content, tmp_path, monkeypatch, file, message):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DataError, match=message):
        official_file("toymnist", 64, info_of(f"{server}/{file}", content), tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_download_of_something_else_is_refused(server, content, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DataError, match=r"has the MD5 .*; expected .*: nothing was kept"):
        official_file("toymnist", 64, info_of(f"{server}/whole.npz", content + b"x"), tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def test_nobody_answers(content, tmp_path):
    with pytest.raises(DataError, match=r"The download of http://127.0.0.1:9/x.npz failed .* or give its path"):
        official_file("toymnist", 64, info_of("http://127.0.0.1:9/x.npz", content), tmp_path)


def test_an_official_file_must_be_the_official_one(home, pneumonia):
    folder = home / ".medmnist"
    folder.mkdir()
    (folder / "pneumoniamnist.npz").write_bytes(pneumonia.read_bytes())  # rebuilt: another order of rows
    expected = load_info()["pneumoniamnist"]["MD5"]
    with pytest.raises(DataError, match=rf"official one has {expected}.*delete it.*or give its path") as error:
        open_dataset("medmnist:pneumoniamnist")
    assert "pneumoniamnist.npz" in str(error.value)
    assert open_dataset(folder / "pneumoniamnist.npz").classes == ("0", "1")


def test_official_names_of_classes(home, content, monkeypatch):
    (home / ".medmnist").mkdir()
    (home / ".medmnist/breastmnist_64.npz").write_bytes(content)
    entry = load_info()["breastmnist"]
    monkeypatch.setitem(entry, "MD5_64", md5(content, usedforsecurity=False).hexdigest())
    dataset = open_dataset("medmnist:BreastMNIST@64")
    assert (dataset.name, dataset.classes) == ("breastmnist-64", ("malignant", "normal, benign"))
    assert dataset.label.tolist() == [0, 1] * 10
    assert open_dataset("MedMNIST:breastmnist@64").name == "breastmnist-64"
    swapped = open_dataset("medmnist:breastmnist@64", classes=("normal, benign", "malignant"))
    assert swapped.label.tolist() == [1, 0] * 10
    by_path = open_dataset(home / ".medmnist/breastmnist_64.npz", classes=dataset.classes)
    assert by_path.label.tolist() == dataset.label.tolist()


def test_names_and_sizes(home):
    assert len(official_names()) == 12
    with pytest.raises(DataError, match=r"no MedMNIST dataset 'pneumonia'; did you mean medmnist:pneumoniamnist"):
        open_dataset("MEDMNIST:pneumonia")
    with pytest.raises(DataError, match="there are 'pathmnist', 'chestmnist'"):
        open_dataset("medmnist:qqqqqqqqqqqqqq")
    with pytest.raises(DataError, match="no size '32' of 'bloodmnist'; expected one of 28, 64, 128, 224"):
        open_dataset("medmnist:bloodmnist@32")
    with pytest.raises(DataError, match="holds volumes"):
        open_dataset("medmnist:organmnist3d")
    assert not (home / ".medmnist").exists()
