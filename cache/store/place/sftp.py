"""SFTP as `ssh` does it: only to servers whose host key is known, with the user's own keys."""

from __future__ import annotations

from typing import Any

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

__all__ = ["KnownHostsFileSystem"]


class KnownHostsFileSystem(SFTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's own class accepts any key that a server shows."""

    cachable = False

    def _connect(self) -> None:
        self.client: Any = paramiko.SSHClient()
        self.client.load_system_host_keys()
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        self.client.connect(self.host, timeout=20, **self.ssh_kwargs)
        self.ftp: Any = self.client.open_sftp()
