"""Where bytes come from: local files, members of archives, and URLs through fsspec; each plain or compressed."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import importlib
import io
import lzma
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.parse import urlsplit

import pyarrow as pa

from swift.data.sources.rows import CutOff, Reject
from swift.errors import DataError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
"""What a compressed stream raises where it is cut off or damaged; bz2 and zstd raise a bare OSError (see `is_damage`)."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs",
    "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp", "oss": "ossfs", "sftp": "paramiko", "ssh": "paramiko",
    "smb": "smbprotocol", "github": "requests", "webhdfs": "requests", "gdrive": "gdrive_fsspec", "dropbox": "dropboxdrivefs",
    "oci": "ocifs", "webdav": "webdav4[fsspec]", "box": "boxfs", "lakefs": "lakefs-spec",
}  # fmt: skip
_TAGS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5", "ContentMD5", "blob_id", "checksum", "sha256")


def is_url(name: str) -> bool:
    return _URL.match(name) is not None


def redacted(url: str) -> str:
    """`url` without user, password and query, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def suffix_of(name: str) -> str:
    """`.jsonl` of `a.jsonl`, `a.JSONL.gz` and `b.jsonl.zst`."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


_DECOMPRESS: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda raw: pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"),
}


@dataclass(frozen=True)
class DataFile:
    """A file that rows are read from.

    Args:
        name: As rows and messages name it; its endings tell kind and compression.
        path: Where it is a local file, its place.
        connect: Else opens it (for bytes).
        identity: Tag of the content that the store vouches for; "": only the content itself tells.
    """

    name: str
    path: Path | None = None
    connect: Callable[[], IO[bytes]] | None = None
    identity: str = ""

    @classmethod
    def local(cls, path: Path) -> DataFile:
        return cls(str(path), path)

    @property
    def kind(self) -> str:
        return suffix_of(self.name)

    @property
    def compression(self) -> str:
        ending = PurePosixPath(self.name).suffix.lower()
        return ending if ending in COMPRESSED else ""

    def open_raw(self) -> IO[bytes]:
        """The bytes as they are stored."""
        if self.path is not None:
            return self.path.open("rb")
        if self.connect is None:
            raise DataError(f"{self.name} has no content")
        return self.connect()

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The bytes, decompressed while they are read."""
        with self.open_raw() as raw:
            if not self.compression:
                yield raw
                return
            with _DECOMPRESS[self.compression](raw) as stream:
                yield stream

    @contextmanager
    def seekable(self) -> Iterator[IO[bytes]]:
        """For formats that are read from their end: what cannot be sought in is copied to a temporary file on disk first."""
        with self.open() as stream:
            if not self.compression and stream.seekable():
                yield stream
                return
            with tempfile.TemporaryFile() as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)
                copy.seek(0)
                yield copy

    def update(self, digest: hashlib._Hash) -> None:
        """Add kind and content to a digest; name and place do not count."""
        digest.update(self.kind.encode())
        if self.identity:
            digest.update(self.identity.encode())
            return
        with self.open_raw() as stream:
            while block := stream.read(1 << 20):
                digest.update(block)

    def is_empty(self) -> bool:
        with self.open_raw() as stream:
            return not stream.read(1)

    def is_damage(self, error: BaseException) -> bool:
        """The compressed content is at fault, not the way to it."""
        return isinstance(error, DAMAGED) or (bool(self.compression) and isinstance(error, OSError) and error.errno is None)


@contextmanager
def translated(file: DataFile) -> Iterator[None]:
    """Errors of the store become `DataError`."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{file.name}: {error.strerror or error}", fix=f"chmod u+r {file.name}") from error
    except OSError as error:
        raise DataError(f"{file.name}: {error.strerror or error}", fix="check that it is there and may be read") from error
    except Exception as error:
        if not isinstance(error, _foreign_errors()):
            raise
        raise DataError(f"{file.name}: {_brief(error)}", fix="check the address, the credentials and the network") from error


def damage(file: DataFile, error: BaseException, line: int) -> Reject:
    reason = f"the compressed file is cut off or damaged after line {line}: {error}"
    return CutOff(file.name, line + 1, reason, "fetch or compress it again")


# ------------------------------------------------------------------------------------------------------------------- URLs


def list_url(url: str, *, readable: Callable[[str], bool]) -> list[DataFile]:
    """The files that `url` (a file, a pattern or a folder of an object store) stands for, in the order of their names.

    Raises:
        DataError: The protocol's package is missing, the store does not answer, or nothing readable is there.
    """
    file_system, path = _file_system(url)
    shown = redacted(url)
    try:
        pattern = any(c in (urlsplit(path).path if "http" in file_system.protocol else path) for c in "*?[")
        if (
            "http" in file_system.protocol and suffix_of(shown) and not pattern
        ):  # whether it is a folder could only be told by reading it
            return [_remote(file_system, path, shown)]
        if pattern:
            paths = [p for p in file_system.glob(path) if readable(str(p))]
        elif file_system.isdir(path):
            paths = [p for p in file_system.find(path) if readable(str(p))]
        elif file_system.exists(path):
            return [_remote(file_system, path, shown)]
        else:
            raise DataError(f"nothing is at {shown}", fix="check the address and the credentials")
        if not paths:
            raise DataError(f"no readable file is at {shown}", fix="name a file, a folder or a pattern")
        return [_remote(file_system, p, redacted(file_system.unstrip_protocol(p))) for p in sorted(map(str, paths))]
    except Exception as error:
        if not isinstance(error, (OSError, ImportError, *_foreign_errors())):
            raise
        raise _unreachable(shown, error) from error


def _remote(file_system: Any, path: str, name: str) -> DataFile:
    info = file_system.info(path)
    tag = next((f"{key}={info[key]}" for key in _TAGS if info.get(key)), "")
    weak = tag.startswith("ETag=W/")
    identity = f"{tag} size={info.get('size')}" if tag and not weak else ""
    return DataFile(name, connect=lambda: file_system.open(path, "rb"), identity=identity)


def _file_system(url: str) -> tuple[Any, str]:
    protocol = url.split("://", 1)[0].lower()
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError as error:
        raise DataError(f"{redacted(url)}: reading URLs needs the package fsspec",
                        fix=f"pip install fsspec {_PACKAGES.get(protocol, '')}".rstrip()) from error  # fmt: skip
    try:
        file_system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol, "")
        raise DataError(f"{redacted(url)}: {protocol}:// needs the package {package or 'that fsspec names'}: {error}",
                        fix=f"pip install {package or 'fsspec'}") from error  # fmt: skip
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in ("s3", "gs", "az", "hf", "https"))
        raise DataError(f"{redacted(url)}: protocol {protocol}:// is unknown; known are {known} and what else fsspec offers",
                        fix="check the address") from error  # fmt: skip
    return file_system, path


def _foreign_errors() -> tuple[type[Exception], ...]:
    """Bases of what object stores' packages raise; those that are not installed raise nothing."""
    found: list[type[Exception]] = []
    for module, name in (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"),
                         ("botocore.exceptions", "ClientError"), ("gcsfs.retry", "HttpError"),
                         ("google.auth.exceptions", "GoogleAuthError"), ("azure.core.exceptions", "AzureError")):  # fmt: skip
        if loaded := sys.modules.get(module):
            found.append(getattr(loaded, name))
    return tuple(found)


def _unreachable(shown: str, error: Exception) -> DataError:
    aiohttp = sys.modules.get("aiohttp")
    if aiohttp is not None and isinstance(error.__cause__, aiohttp.ClientConnectionError):
        error = error.__cause__  # fsspec says "not found" also where no server answers
    if isinstance(error, FileNotFoundError):
        return DataError(f"nothing is at {shown}", fix="check the address and the credentials")
    return DataError(f"{shown}: {_brief(error)}", fix="check the address, the credentials and the network")


def _brief(error: BaseException) -> str:
    text = re.sub(r"\?\S+", "?...", str(error).strip().splitlines()[0]) if str(error).strip() else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Piecewise(io.RawIOBase):
    """Hands over what a decompressor has. `read` would raise at the cut of a damaged file and lose the rows before it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read1(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


@contextmanager
def buffered(stream: IO[bytes]) -> Iterator[io.BufferedReader]:
    """A stream that knows `peek`, whatever the store gave; closing stays with whoever opened it."""
    if isinstance(stream, io.BufferedReader):
        yield stream
        return
    reader = io.BufferedReader(_Piecewise(stream) if hasattr(stream, "read1") else cast(Any, stream), 1 << 18)
    try:
        yield reader
    finally:
        reader.detach()


@contextmanager
def decoded(stream: io.BufferedReader, encoding: str, errors: str) -> Iterator[io.TextIOWrapper]:
    """The text of a stream with its line ends as they are."""
    text = io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="\n")
    try:
        yield text
    finally:
        text.detach()
