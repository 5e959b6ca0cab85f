"""Images, videos and audio of records as checked local files. Left of the torch line.

Data must not make this machine call out: URLs are fetched only where the user asks for it, only over http(s), without
proxies, credentials or cookies, within limits of time and size, and never from an address that is not public (loopback,
private, link-local, cloud metadata, multicast, also where a redirect or a name leads there). The address is checked before the
connection is made and is the one that is connected to, so that a name cannot change its answer in between.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import http.client
import importlib
import io
import ipaddress
import os
import secrets
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from swift.api.contracts.data import Record
from swift.data.sources.opening import redacted
from swift.errors import DataError
from swift.plugins import index

KINDS = {"images": "image", "videos": "video", "audios": "audio"}
MAX_BYTES = {"images": 64 << 20, "audios": 512 << 20, "videos": 2 << 30}
"""Largest medium that is fetched."""
PILLOW = 'pip install "swift-llm-core[vision]"'

_PUBLIC_ONLY = "fetch the file yourself and name its path"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_FTYP_IMAGES = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
_CHUNK = 1 << 18
_ORIENTATION = 0x0112  # EXIF tag


def resolve_media(
    record: Record,
    *,
    base: Path,
    media_folder: str | Path | None = None,
    media_urls: bool = False,
    fetch: Fetcher | None = None,
) -> Record:
    """The record with absolute paths of files that are there and are what they should be.

    Args:
        record: Its media are paths, URLs or `data:` URIs; the latter two become files in Swift's cache.
        base: Folder of the data file; relative paths start there.
        media_folder: Where relative paths start instead.
        media_urls: Fetch http(s) URLs.
        fetch: How; default: with the limits of this module.

    Raises:
        DataError: A medium is missing, damaged, of another kind, or a URL that must not or cannot be fetched.
    """
    found = {name: record[name] for name in KINDS if record.get(name)}
    if not found:
        return record
    folder = Path(media_folder).expanduser() if media_folder else base
    changed = dict(record)
    for name, items in found.items():
        changed[name] = [_resolve(item, name, folder, fetch or FETCHER if media_urls else None) for item in items]
    return changed


def open_image(item: str | Path | bytes) -> Any:
    """A PIL image, upright (as its EXIF data say), from a path, a `data:` URI or bytes. Raises `DataError`."""
    pillow = _pillow()
    if pillow is None:
        raise DataError("opening images needs the package pillow", fix=PILLOW)
    if isinstance(item, str) and item.startswith("data:"):
        item = decode_uri(item)
    try:
        with pillow.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            return importlib.import_module("PIL.ImageOps").exif_transpose(image)
    except Exception as error:  # decoders raise anything on damaged files
        shown = "the image" if isinstance(item, bytes) else item
        raise DataError(f"{shown} cannot be opened: {error}", fix="replace the file, or remove the row") from error


def image_size(path: str | Path | bytes) -> tuple[int, int]:
    """(height, width) of an image (a file, or its bytes) when it is upright, from its header. Raises `DataError`."""
    pillow = _pillow()
    if pillow is None:
        raise DataError("reading images needs the package pillow", fix=PILLOW)
    try:
        with pillow.open(io.BytesIO(path) if isinstance(path, bytes) else path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:  # decoders raise anything on damaged files
        shown = "the image" if isinstance(path, bytes) else path
        raise DataError(f"{shown} cannot be opened: {error}", fix="replace the file, or remove the row") from error
    return (width, height) if turned else (height, width)


def decode_uri(uri: str) -> bytes:
    """Content of a `data:` URI."""
    head, comma, content = uri.partition(",")
    try:
        if not comma:
            raise ValueError("it has no comma")
        return base64.b64decode(content, validate=True) if head.endswith(";base64") else unquote_to_bytes(content)
    except (ValueError, binascii.Error) as error:
        raise DataError(f"a data URI ({uri[:40]}...) cannot be read: {error}", fix="write data:image/png;base64,...") from error


def _resolve(item: Any, name: str, folder: Path, fetch: Fetcher | None) -> str:
    if not isinstance(item, str):
        raise DataError(f"an entry of {name} is {type(item).__name__}; it is a path, a URL or a data URI")
    if item.startswith("data:"):
        content = decode_uri(item)
        target = _cache() / f"{hashlib.sha256(content).hexdigest()}{_ending(content[:64])}"
        if not target.is_file():
            with _new_file(target) as stream:
                stream.write(content)
                stream.flush()
                check(Path(stream.name), name, shown=f"the {KINDS[name]} in the row")
        return str(target)
    scheme = urlsplit(item).scheme.lower() if "://" in item[:12] else ""
    if scheme in ("http", "https"):
        if fetch is None:
            raise DataError(f"{redacted(item)} is a URL, and URLs of media are not fetched unless you ask for it",
                            fix="--media_urls true, or fetch the files and name their paths")  # fmt: skip
        return str(fetch(item, name))
    if scheme not in ("", "file"):
        raise DataError(f"{redacted(item)}: media are fetched over http and https only", fix=_PUBLIC_ONLY)
    path = Path(os.path.abspath(local_path(item, folder)))
    try:
        state = path.stat()
    except OSError as error:
        there = "" if path.parent.is_dir() else f" (there is no folder {path.parent})"
        raise DataError(f"{path}: no such {KINDS[name]}{there}" if isinstance(error, FileNotFoundError)
                        else f"{path}: {error.strerror or error}",
                        fix="correct the path, or say where paths start: --media_folder FOLDER") from error  # fmt: skip
    except ValueError as error:
        raise DataError(f"{item!r} is no path: {error}", fix="correct the path") from error
    if not path.is_file():
        raise DataError(f"{path} is no file", fix="name a file")
    if reason := _checked(str(path), name, state.st_mtime_ns, state.st_size):
        raise DataError(reason, fix="replace the file, or remove the row")
    return str(path)


def is_local(item: str) -> bool:
    """Whether a medium is named by the path of a file, not by a URL or by its bytes."""
    return not item.startswith("data:") and ("://" not in item[:12] or item[:7].lower() == "file://")


def local_path(item: str, folder: str | Path) -> str:
    """Of a medium that `is_local`; relative ones start in `folder`."""
    path = unquote(urlsplit(item).path) if item[:7].lower() == "file://" else item
    return os.path.join(folder, path)


def state_of(path: str) -> tuple[int, int]:
    """(bytes, time of change in ns) of a file: what shows that it was replaced. (-1, -1) where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=8192)
def _checked(path: str, name: str, _modified: int, _size: int) -> str:
    """What is wrong with a file; the same file in many rows is looked at once."""
    try:
        check(Path(path), name)
    except DataError as error:
        return error.message
    return ""


# ------------------------------------------------------------------------------------------------------------ what a file is


def check(path: Path, name: str, *, shown: str = "") -> None:
    """Raise `DataError` unless the file is an image that opens, or a video or audio file of a known format that is whole.

    Args:
        name: images, videos or audios.
        shown: What messages call it; default: its path.
    """
    shown = shown or str(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
            size = stream.seek(0, os.SEEK_END)
            kinds = sniff(head)
            if not head:
                raise DataError(f"{shown} is empty", fix="replace the file, or remove the row")
            if KINDS[name] not in kinds.split("/")[0].split("+"):
                what = f"it is {_article(kinds)} file" if kinds else f"its first bytes are {head[:8].hex(' ')}"
                raise DataError(f"{shown} is no {KINDS[name]} of a known format: {what}",
                                fix="replace the file, or name it in the right column")  # fmt: skip
            if cut := _cut_off(stream, head, size):
                raise DataError(f"{shown} is cut off: {cut}", fix="fetch it again, or remove the row")
        if name == "images":
            _check_image(path, shown)
    except OSError as error:
        raise DataError(f"{shown}: {error.strerror or error}", fix="check that the file may be read") from error


def _check_image(path: Path, shown: str) -> None:
    pillow = _pillow()
    if pillow is None:
        return  # header and length are all that can be told
    try:
        with pillow.open(path) as image:
            is_jpeg = image.format == "JPEG"
            image.verify()
        if is_jpeg:  # verify() does not read the content of a JPEG; an eighth of the size is decoded fast
            with pillow.open(path) as image:
                image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
    except Exception as error:  # decoders raise anything on damaged files
        text = str(error).replace(str(path), "").strip() or type(error).__name__
        raise DataError(
            f"{shown} is an image that cannot be opened: {text}", fix="replace the file, or remove the row"
        ) from error


@functools.lru_cache(maxsize=1)
def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError:
        return None


_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image+video/gif"),
    (b"BM", "image/bmp"), (b"II*\0", "image/tiff"), (b"MM\0*", "image/tiff"), (b"\0\0\0\x0cjP  ", "image/jp2"),
    (b"\0\0\1\0", "image/x-icon"), (b"fLaC", "audio/flac"), (b"ID3", "audio/mpeg"), (b"FORM", "audio/aiff"),
    (b"#!AMR", "audio/amr"), (b".snd", "audio/basic"), (b"caff", "audio/x-caf"), (b"OggS", "video+audio/ogg"),
    (b"\x1aE\xdf\xa3", "video+audio/webm"), (b"FLV", "video/x-flv"), (b"0&\xb2u\x8ef\xcf\x11", "video+audio/x-ms-asf"),
    (b"\0\0\1\xba", "video/mpeg"), (b"\0\0\1\xb3", "video/mpeg"),
)  # fmt: skip


def sniff(head: bytes) -> str:
    """`image/png`, `audio/wav`, `video/mp4`, ... of the first bytes of a file; "" where they are unknown. Containers of both
    are `video+audio/...`."""
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[:4] in (b"RIFF", b"RF64"):
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}.get(head[8:12], "")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "image/avif" if head[8:12] in _FTYP_IMAGES else "video+audio/mp4"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
        return "audio/mpeg"
    return "video/mp2t" if head[:1] == b"G" and head[188:189] == b"G" else ""


_ENDINGS = {
    "jpeg": ".jpg", "tiff": ".tif", "x-icon": ".ico", "mpeg": ".mp3", "x-msvideo": ".avi", "ogg": ".ogg", "basic": ".au",
    "x-caf": ".caf", "x-flv": ".flv", "x-ms-asf": ".wmv", "mp2t": ".ts",
}  # fmt: skip


def _ending(head: bytes) -> str:
    kind = sniff(head).rpartition("/")[2]
    return _ENDINGS.get(kind, f".{kind}" if kind else "")


def _article(kind: str) -> str:
    return ("an " if kind[:1] in "aeiou" else "a ") + kind


def _cut_off(stream: IO[bytes], head: bytes, size: int) -> str:
    """Where a container says how long it is: by what it is shorter."""
    if head[:4] == b"RIFF":
        declared = int.from_bytes(head[4:8], "little") + 8
        streamed = declared >= 2**31 or declared == 8  # written without knowing the length
        return f"{size} of {declared} bytes are there" if size < declared - 1 and not streamed else ""
    if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip") or head[8:12] in _FTYP_IMAGES:
        return ""
    position, kinds = 0, set()
    while position + 8 <= size:  # boxes of MP4 and QuickTime: length, kind
        stream.seek(position)
        box = stream.read(16)
        length = int.from_bytes(box[:4], "big")
        kinds.add(box[4:8])
        if length == 1:
            length = int.from_bytes(box[8:16], "big")
        elif length == 0:
            length = size - position
        if length < 8 or position + length > size:
            return f"{size} of at least {position + length} bytes are there" if length >= 8 else "its boxes are damaged"
        position += length
    return "" if b"moov" in kinds else "it has no index (moov)"


# ---------------------------------------------------------------------------------------------------------------------- URLs


def _cache() -> Path:
    return Path(index.home(), "media")


@contextmanager
def _new_file(target: Path) -> Iterator[IO[bytes]]:
    """Written under another name; there whole or not at all."""
    temporary = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            yield stream
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror or error}",
                        fix="make room there, or choose another folder by SWIFT_HOME") from error  # fmt: skip
    finally:
        temporary.unlink(missing_ok=True)


@dataclass
class Fetcher:
    """Fetches media by URL into the cache; what is there is not fetched again.

    Args:
        timeout_s: For the connection and each wait for data.
        deadline_s: For one medium in all.
        max_bytes: images, videos or audios -> size.
        is_allowed: Whether an address may be connected to.
        attempts_per_host: A host that failed so often is not tried again.
    """

    timeout_s: float = 15.0
    deadline_s: float = 300.0
    max_bytes: dict[str, int] = field(default_factory=lambda: dict(MAX_BYTES))
    is_allowed: Callable[[str], bool] = field(default_factory=lambda: is_public)
    attempts_per_host: int = 5
    _failures: Counter[str] = field(default_factory=Counter)

    def __call__(self, url: str, name: str) -> Path:
        """Raises `DataError`."""
        ending = Path(urlsplit(url).path).suffix[:8].lower()
        target = _cache() / f"url-{hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}{ending}"
        if target.is_file():
            return target
        host = urlsplit(url).netloc.rpartition("@")[2]
        if self._failures[host] >= self.attempts_per_host:
            raise DataError(
                f"{redacted(url)}: {host} failed {self.attempts_per_host} times; it is not asked again", fix=_PUBLIC_ONLY
            )
        with _new_file(target) as stream:
            try:
                self._download(url, name, stream)
            except (OSError, http.client.HTTPException, ValueError) as error:
                status = isinstance(error, urllib.error.HTTPError)
                self._failures[host] += not status
                reason = _reason(error)
                if isinstance(error, urllib.error.HTTPError):
                    reason = f"HTTP {error.code}"
                    error.close()  # else its connection is open for as long as anyone keeps the error
                raise DataError(f"{redacted(url)} cannot be fetched: {reason}", fix=_PUBLIC_ONLY) from error
            stream.flush()
            check(Path(stream.name), name, shown=redacted(url))
        return target

    def _download(self, url: str, name: str, stream: IO[bytes]) -> None:
        limit, until = self.max_bytes[name], time.monotonic() + self.deadline_s
        request = urllib.request.Request(url, headers={"User-Agent": "swift-llm", "Accept": f"{KINDS[name]}/*,*/*;q=0.5"})
        with self._opener().open(request, timeout=self.timeout_s) as answer:
            declared = answer.headers.get("Content-Length", "")
            size = int(declared) if declared.isdigit() else 0
            done = 0
            while chunk := answer.read1(_CHUNK):
                done += len(chunk)
                if max(done, size) > limit:
                    raise DataError(f"{redacted(url)} is larger than {limit >> 20} MiB", fix=_PUBLIC_ONLY)
                if time.monotonic() > until:
                    raise TimeoutError(f"not done after {self.deadline_s:g} s")
                stream.write(chunk)
            if done < size:
                raise OSError(f"the connection ended after {done} of {size} bytes")

    def _opener(self) -> urllib.request.OpenerDirector:
        """http and https alone: no proxies, passwords, cookies, or other protocols that a redirect could lead to."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            _Http(self.is_allowed), _Https(self.is_allowed), urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPRedirectHandler(), urllib.request.HTTPErrorProcessor(), urllib.request.UnknownHandler(),
        ):  # fmt: skip
            opener.add_handler(handler)
        return opener


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, also where IPv6 carries an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            ip = ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not ip.is_multicast


def _connect(host: str, port: int, timeout: Any, is_allowed: Callable[[str], bool]) -> socket.socket:
    addresses = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if refused := [a for a in addresses if not is_allowed(str(a))]:
        raise OSError(f"{host} is {refused[0]}, which is no public address")
    failure: OSError = OSError(f"{host} has no address")
    for address in addresses:
        try:
            return socket.create_connection((str(address), port), timeout)
        except OSError as error:
            failure = error
    raise failure


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, *, is_allowed: Callable[[str], bool], **options: Any) -> None:
        super().__init__(host, **options)
        self.is_allowed = is_allowed

    def connect(self) -> None:
        self.sock = _connect(self.host, self.port, self.timeout, self.is_allowed)


class _SecureConnection(_Connection):
    default_port = 443

    def connect(self) -> None:
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        super().__init__()
        self.is_allowed = is_allowed

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_Connection, is_allowed=self.is_allowed), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        super().__init__()
        self.is_allowed = is_allowed

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_SecureConnection, is_allowed=self.is_allowed), request)


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    return str(inner if isinstance(inner, BaseException) else error) or type(error).__name__


FETCHER = Fetcher()
