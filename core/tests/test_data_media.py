"""Media of records are there, whole and of the right kind, or the row says what is wrong; data alone fetches nothing."""

from __future__ import annotations

import base64
import io
import json
import threading
import wave
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from swift.data import media
from swift.data.media import Fetcher, is_public, open_image, resolve_media, sniff
from swift.data.records import load_records
from swift.errors import DataError

Image = pytest.importorskip("PIL.Image")
MEDIA = Path(__file__).parent / "data" / "media"
JPEG = (MEDIA / "1.jpg").read_bytes()
WAV = (MEDIA / "cough.wav").read_bytes()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFT_HOME", str(tmp_path / "home"))


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


def mp4(*boxes: tuple[bytes, bytes]) -> bytes:
    return b"".join((len(content) + 8).to_bytes(4, "big") + kind + content for kind, content in boxes)


def test_paths_become_absolute(tmp_path: Path) -> None:
    record = {"messages": [], "images": ["1.jpg"], "audios": [str(MEDIA / "cough.wav")]}
    found = resolve_media(record, base=MEDIA)
    assert found == {**record, "images": [str(MEDIA / "1.jpg")], "audios": [str(MEDIA / "cough.wav")]}
    assert record["images"] == ["1.jpg"], "the record that came is left as it is"
    assert resolve_media({"images": ["1.jpg"]}, base=tmp_path, media_folder=MEDIA)["images"] == [str(MEDIA / "1.jpg")]
    assert resolve_media({"images": [(MEDIA / "1.jpg").as_uri()]}, base=tmp_path)["images"] == [str(MEDIA / "1.jpg")]
    plain = {"text": "x"}
    assert resolve_media(plain, base=tmp_path) is plain


def test_bytes_in_the_row_become_one_file(tmp_path: Path) -> None:
    uri = "data:application/octet-stream;base64," + base64.b64encode(JPEG).decode()
    found = [resolve_media({"images": [uri]}, base=tmp_path)["images"][0] for _ in range(2)]
    assert found[0] == found[1] and Path(found[0]).suffix == ".jpg" and Path(found[0]).read_bytes() == JPEG
    assert open_image(uri).size == open_image(found[0]).size == open_image(JPEG).size
    assert [p.name for p in Path(found[0]).parent.iterdir()] == [Path(found[0]).name], "no temporary file is left"


@pytest.mark.parametrize(
    ("name", "content", "kind", "reason"),
    [
        ("a.jpg", b"", "images", "is empty"),
        ("a.jpg", b"<html>404</html>", "images", "no image of a known format: its first bytes are 3c 68"),
        ("a.jpg", JPEG[: len(JPEG) // 2], "images", "cannot be opened: .*truncated"),
        ("a.png", png((64, 64))[:-20], "images", "cannot be opened"),
        ("a.png", png().replace(b"IDAT", b"IDAX"), "images", "cannot be opened"),
        ("a.jpg", WAV, "images", "no image of a known format: it is an audio/wav file"),
        ("a.wav", JPEG, "audios", "no audio of a known format: it is an image/jpeg file"),
        ("a.wav", WAV[: len(WAV) // 2], "audios", "cut off: .* of .* bytes are there"),
        ("a.mp4", mp4((b"ftyp", b"isom"), (b"moov", b"x" * 99))[:-50], "videos", "cut off"),
        ("a.mp4", mp4((b"ftyp", b"isom"), (b"mdat", b"x" * 99)), "videos", "no index"),
        (None, b"", "images", "no such image"),
    ],
)
def test_what_is_missing_or_damaged_says_so(tmp_path: Path, name: str | None, content: bytes, kind: str, reason: str) -> None:
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        resolve_media({kind: [name or "not/there.jpg"]}, base=tmp_path)
    assert caught.value.fix and str(tmp_path) in caught.value.message


def test_whole_files_of_every_format_pass(tmp_path: Path) -> None:
    for format_ in ("PNG", "GIF", "BMP", "TIFF", "WEBP"):
        path = tmp_path / f"a.{format_.lower()}"
        Image.new("RGB", (8, 8)).save(path, format_)
        resolve_media({"images": [path.name]}, base=tmp_path)
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\0" * 100)
    (tmp_path / "a.mp4").write_bytes(mp4((b"ftyp", b"isom"), (b"moov", b"x" * 99), (b"mdat", b"x" * 99)))
    resolve_media({"audios": ["a.wav", "a.mp4"], "videos": ["a.mp4", "a.gif"]}, base=tmp_path)
    assert sniff(b"ID3\4") == "audio/mpeg" and sniff(b"fLaC") == "audio/flac" and sniff(b"nothing") == ""


def test_without_pillow_headers_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_pillow", lambda: None)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    (tmp_path / "b.jpg").write_bytes(JPEG)
    resolve_media({"images": ["b.jpg"]}, base=tmp_path)
    with pytest.raises(DataError, match="no image of a known format"):
        resolve_media({"images": ["a.jpg"]}, base=tmp_path)
    with pytest.raises(DataError, match="needs the package pillow") as caught:
        open_image(tmp_path / "b.jpg")
    assert "pip install" in caught.value.fix


class Site(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        body = {"/a.jpg": JPEG, "/page.jpg": b"<html>"}.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fetcher(**options: Any) -> Fetcher:
    return Fetcher(is_allowed=lambda address: address == "127.0.0.1", **options)


def test_urls_are_fetched_once_and_only_on_request(site: str, tmp_path: Path) -> None:
    Site.asked.clear()
    url = f"{site}/a.jpg"
    with pytest.raises(DataError, match="not fetched unless you ask") as caught:
        resolve_media({"images": [url]}, base=tmp_path)
    assert "--media_urls" in caught.value.fix and not Site.asked
    for _ in range(2):
        found = resolve_media({"images": [url]}, base=tmp_path, media_urls=True, fetch=fetcher())
        assert Path(found["images"][0]).read_bytes() == JPEG
    assert Site.asked == ["/a.jpg"]


def test_addresses_that_are_not_public_are_refused(site: str, tmp_path: Path) -> None:
    Site.asked.clear()
    for url in (f"{site}/a.jpg", site.replace("127.0.0.1", "localhost") + "/a.jpg"):
        with pytest.raises(DataError, match="no public address"):
            resolve_media({"images": [url]}, base=tmp_path, media_urls=True)
    assert not Site.asked, "not even a request goes out"
    with pytest.raises(DataError, match="no public address"):  # a redirect leads to another private address
        fetch = fetcher()
        resolve_media({"images": [f"{site}/to/http://127.0.0.2:9/a.jpg"]}, base=tmp_path, media_urls=True, fetch=fetch)
    with pytest.raises(DataError, match="cannot be fetched|over http"):
        resolve_media({"images": [f"{site}/to/file:///etc/passwd"]}, base=tmp_path, media_urls=True, fetch=fetcher())
    with pytest.raises(DataError, match="http and https only"):
        resolve_media({"images": ["ftp://example.org/a.jpg"]}, base=tmp_path, media_urls=True)
    for address, public in {
        "8.8.8.8": True, "2606:4700::1111": True, "10.0.0.1": False, "127.0.0.1": False, "169.254.169.254": False, "::1": False,
        "::ffff:10.0.0.1": False, "fe80::1%eth0": False, "64:ff9b::a00:1": False, "2002:a00:1::": False, "224.0.0.1": False,
        "100.64.0.1": False, "0.0.0.0": False,
    }.items():  # fmt: skip
        assert is_public(address) is public, address


def test_limits_and_faults_of_sites(site: str, tmp_path: Path) -> None:
    def fail(path: str, **options: Any) -> str:
        with pytest.raises(DataError) as caught:
            resolve_media({"images": [f"{site}{path}"]}, base=tmp_path, media_urls=True, fetch=fetcher(**options))
        return caught.value.message

    assert "HTTP 404" in fail("/none.jpg?token=secret") and "secret" not in fail("/none.jpg?token=secret")
    assert "no image of a known format" in fail("/page.jpg")
    assert "larger than" in fail("/a.jpg", max_bytes={"images": 1000})
    home = tmp_path / "home" / "media"
    assert not home.exists() or not list(home.iterdir()), "nothing half fetched stays"
    dead = fetcher(attempts_per_host=1)
    for reason in ("cannot be fetched", "not asked again"):
        with pytest.raises(DataError, match=reason):
            dead("http://127.0.0.1:1/a.jpg", "images")


def test_a_row_is_judged_again_when_its_media_come_go_or_change(tmp_path: Path) -> None:
    rows = [{"query": "<image>q", "response": "r", "images": [name]} for name in ("here.png", "later.png")]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def rejected() -> list[int]:
        found = load_records([str(file)], max_bad_fraction=1.0, cache_dir=tmp_path / "cache", lazy=True)
        states.append(found.media)
        return [reject.line for reject in found.rejects]

    states: list[str] = []
    (tmp_path / "here.png").write_bytes(png())
    assert [rejected(), rejected()] == [[2], [2]] and states[0] == states[1] != ""
    (tmp_path / "later.png").write_bytes(png())
    assert rejected() == []
    (tmp_path / "here.png").write_bytes(b"no image")
    assert rejected() == [1]
    (tmp_path / "here.png").unlink()
    assert rejected() == [1] and len(set(states)) == 4


def test_rows_without_local_media_have_no_state(tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    rows = [{"query": "q", "response": "r"}, {"query": "<image>q", "response": "r", "images": [uri]}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert load_records([str(file)], cache_dir=tmp_path / "cache").media == ""
