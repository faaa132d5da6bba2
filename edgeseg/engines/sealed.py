"""A folder of ours alone, and files in it that are known again by their seals.

The folder is opened once, must be ours (0700) and no link, and all goes through that descriptor, so
that nothing done to the folders above can put other files in the place of ours. Each file is opened
without following links and judged by its own descriptor. Beside ``NAME`` lies ``NAME.hmac``, its
seal: HMAC-SHA256 over name, meaning and content, with a random key that never leaves the folder.
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import logging
import os
import secrets
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from edgeseg.errors import EngineError

SECRET, SECRET_BYTES = "key", 32
SEAL, LOCK, PART = ".hmac", ".lock", ".part"
OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # never waits for the writer of a pipe
FOLDER = os.O_RDONLY | os.O_DIRECTORY | OPEN
ELSEWHERE = "set EDGESEG_CACHE to another folder"
_LOG = logging.getLogger(__name__)


class SealedFolder:
    """An open folder.

    Close it, or use it as a context. Any number of processes and threads may have it open, each
    its own.

    Args:
        path: where it is.
        make: make it where there is none, 0700 whatever the umask.

    Raises:
        EngineError: others may enter it, or it is a link or a file.
        OSError: it can't be made or opened.
    """

    def __init__(self, path: Path, make: bool = True) -> None:
        try:
            self._place = os.open(path, os.O_RDONLY | OPEN)
        except FileNotFoundError:
            if not make:
                raise
            self._place = _made(path)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise _unsafe(path, "a link", f"remove it, or {ELSEWHERE}") from None
        try:
            _check_ours(path, os.fstat(self._place))
        except EngineError:
            self.close()
            raise

    def __enter__(self) -> SealedFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; once."""
        os.close(self._place)

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` leads to this folder."""
        return os.path.samestat(path.stat(), os.fstat(self._place))

    def names(self) -> list[str]:
        """All that is in it, seals and hidden files too."""
        with os.scandir(self._place) as entries:
            return [entry.name for entry in entries]

    def status(self, name: str) -> os.stat_result | None:
        """Of a regular file of ours; None for anything else."""
        with suppress(OSError):
            status = os.stat(name, dir_fd=self._place, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                return status
        return None

    def meaning(self, name: str) -> bytes:
        """What the seal of a file says that it is: to be believed only where `whole` agrees."""
        return self._read(name + SEAL).partition(b"\n")[2]

    def whole(self, name: str, meaning: bytes) -> bytes | None:
        """The content of a file whose seal agrees, marked as used; None for any other, or none."""
        try:
            content, seal = self._read(name), self._read(name + SEAL)
            if not hmac.compare_digest(seal, _seal(self._secret(), name, meaning, content)):
                return None
        except OSError:
            return None
        with suppress(OSError):  # a folder that may only be read
            os.utime(name, dir_fd=self._place, follow_symlinks=False)
        return content

    def store(self, name: str, meaning: bytes, content: bytes) -> None:
        """Keep a file and its seal, through to the disk; the caller holds its lock.

        Raises:
            OSError: it can't be written; nothing half-written stays.
        """
        seal = _seal(self._secret_made(), name, meaning, content)
        self._put({name: content, name + SEAL: seal})

    def forget(self, name: str) -> None:
        """Remove a file and its seal, where they are."""
        self._remove(name)
        self._remove(name + SEAL)

    def clean(self) -> None:
        """Remove what processes left that were killed while they held a lock."""
        for name in self.names():
            owner = name.removeprefix(".").removesuffix(LOCK)
            if name == f".{owner}{LOCK}":
                with suppress(OSError), self.locked(owner, wait=False):
                    self._remove(f".{owner}{PART}")
                    self._remove(f".{owner}{SEAL}{PART}")

    @contextmanager
    def locked(self, name: str, wait: bool = True) -> Iterator[None]:
        """Hold the lock of a file's name; the kernel frees it when its holder dies.

        Raises:
            BlockingIOError: another holds it, and ``wait`` is off.
        """
        file, held = f".{name}{LOCK}", False
        while not held:
            lock = os.open(file, os.O_RDWR | os.O_CREAT | OPEN, 0o600, dir_fd=self._place)
            try:
                os.fchmod(lock, 0o600)
                _flock(lock, name, wait)
                held = os.fstat(lock).st_nlink > 0  # else its last holder removed it: once more
                if held:
                    yield
            finally:
                if held:
                    self._remove(file)
                os.close(lock)

    def _read(self, name: str) -> bytes:
        """The content of a file that only we could have written.

        Raises:
            OSError: there is none, it is no plain file, somebody else's, or others may write it.
        """
        descriptor = os.open(name, os.O_RDONLY | OPEN, dir_fd=self._place)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            alone = status.st_uid == os.geteuid() and status.st_nlink == 1
            if not (alone and stat.S_ISREG(status.st_mode)) or status.st_mode & 0o022:
                raise OSError(errno.EPERM, "not a file of ours alone", name)
            return stream.read()

    def _secret(self) -> bytes:
        """The key of every seal.

        Raises:
            OSError: there is none that could be ours.
        """
        secret = self._read(SECRET)
        if len(secret) != SECRET_BYTES:
            raise OSError(errno.EINVAL, "not a key", SECRET)
        return secret

    def _secret_made(self) -> bytes:
        """The key of every seal; a new one where it is lost, and older seals agree no more."""
        with suppress(OSError):
            return self._secret()
        with self.locked(SECRET):
            with suppress(OSError):
                return self._secret()
            secret = secrets.token_bytes(SECRET_BYTES)
            self._put({SECRET: secret})
            return secret

    def _put(self, files: Mapping[str, bytes]) -> None:
        """Write files under hidden names, then give them theirs; or none of them."""
        parts = {f".{name}{PART}": name for name in files}
        try:
            for part, name in parts.items():
                self._remove(part)  # of a process that was killed
                self._write(part, files[name])
            for part, name in parts.items():
                os.rename(part, name, src_dir_fd=self._place, dst_dir_fd=self._place)
            os.fsync(self._place)
        finally:
            for part in parts:
                self._remove(part)

    def _write(self, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN
        descriptor = os.open(name, flags, 0o600, dir_fd=self._place)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, 0o600)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self._place)


def _made(path: Path) -> int:
    """Make a folder and those above it, 0700 each; a descriptor of it."""
    if not path.parent.exists():
        os.close(_made(path.parent))
    with suppress(FileExistsError):  # another process was faster
        path.mkdir(0o700)
    descriptor = os.open(path, FOLDER)
    if os.fstat(descriptor).st_uid == os.geteuid():
        os.fchmod(descriptor, 0o700)
    return descriptor


def _check_ours(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode):
        raise _unsafe(path, "a file", ELSEWHERE)
    if status.st_uid != os.geteuid():
        raise _unsafe(path, f"a folder of user {status.st_uid}", ELSEWHERE)
    if mode & 0o077:
        hint = f"run: chmod 700 {shlex.quote(str(path))}"
        raise _unsafe(path, f"a folder that is open to others (mode {mode:04o})", hint)


def _unsafe(path: Path, got: str, hint: str) -> EngineError:
    return EngineError(
        f"got {got} at {str(path)!r}; wanted an engine cache for user {os.geteuid()} alone; {hint}"
    )


def _flock(lock: int, name: str, wait: bool) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise
        _LOG.info("waiting for the process that makes %s", name)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _seal(secret: bytes, name: str, meaning: bytes, content: bytes) -> bytes:
    """What lies beside a file: its HMAC, and on the next line what it is."""
    code = hmac.new(secret, name.encode() + b"\0" + meaning + b"\0", sha256)
    code.update(content)
    return code.hexdigest().encode() + b"\n" + meaning
