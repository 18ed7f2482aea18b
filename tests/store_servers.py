"""Real servers on loopback for the tests of stores: OpenSSH, nginx with a self-signed certificate, moto's S3."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

HOST = "127.0.0.1"


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def find_server(name):
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (.ci/run installs it where it can)")
    return found


def need_module(*names):
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install '.[s3,sftp,https]' and moto)")


@contextmanager
def running(words, port, env=None, log=None):
    """Run a server until the end of the block; it is ready once its port answers."""
    with Path(log or os.devnull).open("w") as out:
        process = subprocess.Popen([str(word) for word in words], stdout=out, stderr=out, env=env)
        try:
            for _ in range(600):
                with socket.socket() as probe:
                    if probe.connect_ex((HOST, port)) == 0:
                        break
                assert process.poll() is None, Path(log).read_text() if log else "the server ended"
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def sftp_server(folder, home):
    """An OpenSSH server that knows the key in `home`, whose known_hosts know it; yields the address of a folder."""
    need_module("paramiko")
    sshd, keygen = find_server("sshd"), find_server("ssh-keygen")
    port, etc = free_port(), folder / "sshd"
    etc.mkdir()
    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
    for key in (etc / "host_key", home / ".ssh/id_ed25519"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    shutil.copy(home / ".ssh/id_ed25519.pub", etc / "authorized_keys")
    public = (etc / "host_key.pub").read_text()
    (home / ".ssh/known_hosts").write_text(f"[{HOST}]:{port} {public}")
    (etc / "config").write_text(
        f"ListenAddress {HOST}\nPort {port}\nHostKey {etc}/host_key\nAuthorizedKeysFile {etc}/authorized_keys\n"
        f"PidFile {etc}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "MaxStartups 100\nMaxSessions 100\nSubsystem sftp internal-sftp\n"
    )
    # As a service would find it; sshd wants this folder where it runs as root.
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "srv").mkdir(exist_ok=True)
    with running([sshd, "-D", "-e", "-f", etc / "config"], port, log=etc / "log"):
        yield f"sftp://{getpass.getuser()}@{HOST}:{port}{folder}/srv/store"


@contextmanager
def s3_server(folder, counter=None):
    """moto's S3 in a process of its own, with a bucket `lab`; yields the address of a store and its environment.

    Its log has a line for each request.
    """
    need_module("moto", "s3fs", "flask")
    port = free_port()
    log = counter or folder / "s3.log"
    env = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
    }
    words = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with running(words, port, env={**os.environ, **env}, log=log):
        import s3fs

        keys = {"key": "testing", "secret": "testing", "endpoint_url": env["AWS_ENDPOINT_URL"]}
        s3fs.S3FileSystem(**keys, skip_instance_cache=True).mkdir("lab")
        yield "s3://lab/caches", env


@contextmanager
def https_server(folder, served):
    """An nginx with a self-signed certificate and no listings; yields the address and what trusts it."""
    need_module("aiohttp")
    nginx, openssl = find_server("nginx"), find_server("openssl")
    port, etc = free_port(), folder / "nginx"
    etc.mkdir()
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}"]
    subprocess.run(
        [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            *subject,
            "-keyout",
            etc / "key.pem",
            "-out",
            etc / "cert.pem",
        ],
        check=True,
        capture_output=True,
    )
    places = "".join(f"{kind}_temp_path {etc}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    (etc / "nginx.conf").write_text(
        f"{user} daemon off; pid {etc}/pid; error_log {etc}/error.log; events {{}}\n"
        f"http {{ access_log {etc}/access.log; {places}\n"
        f"server {{ listen {HOST}:{port} ssl; ssl_certificate {etc}/cert.pem; ssl_certificate_key {etc}/key.pem;\n"
        f"root {served}; }} }}\n"
    )
    with running([nginx, "-c", etc / "nginx.conf", "-e", etc / "error.log"], port, log=etc / "log"):
        yield f"https://{HOST}:{port}/store", {"SSL_CERT_FILE": str(etc / "cert.pem")}
