"""The sandbox's directory: the chain's ledger, and the keys of those who did not bring one."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rail402.clock import Clock, RandomBytes, system_random
from rail402.errors import ConfigurationError
from rail402.sandbox import sandbox_directory
from rail402_base.chain import SandboxBackend
from rail402_base.keys import LocalSigner, parse_private_key
from rail402_base.sandbox import SandboxChain

__all__ = ["SandboxHome", "open_sandbox", "sandbox_key", "sandbox_signer"]

Role = Literal["publisher", "agent"]


@dataclass(frozen=True, slots=True)
class SandboxHome:
    """An open sandbox: where it is, and its chain."""

    path: Path
    backend: SandboxBackend


def open_sandbox(directory: str | Path | None, *, clock: Clock) -> SandboxHome:
    """Return the sandbox of a directory (see `sandbox_directory`).

    Raises:
        ConfigurationError: the directory cannot be made.
    """
    path = sandbox_directory(directory)
    return SandboxHome(path, SandboxBackend(SandboxChain(path / "base.db", clock=clock), clock=clock))


def sandbox_signer(path: Path, role: Role, *, random_bytes: RandomBytes = system_random) -> LocalSigner:
    """Return what signs with the key that the publisher or the agent of this sandbox has; see `sandbox_key`."""
    return LocalSigner(sandbox_key(path, role, random_bytes=random_bytes))


def sandbox_key(path: Path, role: Role, *, random_bytes: RandomBytes = system_random) -> bytes:
    """Return the key that the publisher or the agent of this sandbox has, made (mode 600) at the first use.

    Raises:
        ConfigurationError: the file cannot be made or read, or holds no key.
    """
    file = path / f"base-{role}.key"
    try:
        if not file.exists():
            _keep(file, random_bytes(32).hex())
        return parse_private_key(file.read_text(encoding="ascii").strip())
    except OSError as error:
        raise ConfigurationError(f"the sandbox key {file} cannot be made or read: {error.strerror}") from error
    except (UnicodeDecodeError, ConfigurationError):
        # Neither error may be chained: the first one holds the file's bytes.
        raise ConfigurationError(f"the sandbox key {file} holds no private key: delete it for a new one") from None


def _keep(file: Path, text: str) -> None:
    """Write a file that no other process ever sees half of, unless another one was faster."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 600
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as target:
            target.write(text + "\n")
        file.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
