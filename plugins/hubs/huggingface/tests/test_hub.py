"""Against a hub on loopback that speaks the real one's four routes; the client runs in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from swift.api import CONTRACTS
from swift_hub_huggingface.hub import HuggingFaceHub
from swift_hub_huggingface.swift_plugin import swift_hubs

COMMIT = "a" * 40
WEIGHTS = bytes(range(256)) * 1000
BIG = bytes(range(256)) * 96_000  # 24 MB: the client keeps what has arrived in pieces of 10 MB
SMALL = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "README.md": b"# Toy"}
REPOS = {
    "models/acme/toy": {**SMALL, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"old", "model.gguf": b"other"},
    "models/acme/big": {**SMALL, "model.safetensors": BIG},
    "models/acme/gated": SMALL,
    "datasets/acme/rows": {
        "README.md": b"# Rows", "data/train-0.jsonl": b'{"text": "a"}\n', "data/test-0.jsonl": b'{"text": "b"}\n',
    },
}  # fmt: skip
LARGE = (".safetensors", ".bin", ".gguf")
TOKEN = "hf_SecretSecretSecretSecretSecret01"


class FakeHub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def reply(self, status: int, content: bytes = b"", *, body: bool = True, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        if api := re.fullmatch(r"/api/((?:models|datasets)/[\w.-]+/[\w.-]+)(?:/(revision|tree)/([^/]+))?(/.*)?", path):
            repo, what, revision, _ = api.groups()
            if repo not in REPOS:
                return self.reply(404, b"{}", X_Error_Code="RepoNotFound")
            if repo.endswith("gated"):
                return self.reply(403, b"{}", X_Error_Code="GatedRepo")
            if revision not in (None, "main", "v1", COMMIT):
                return self.reply(404, b"{}", X_Error_Code="RevisionNotFound")
            return self.reply(200, json.dumps(self.tree(repo) if what == "tree" else self.info(repo)).encode())
        file = re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        if file is None:
            return self.reply(404, body=body)
        repo = f"{file[1] or 'models/'}{file[2]}"
        name = file[4]
        if repo not in REPOS:
            return self.reply(404, body=body, X_Error_Code="RepoNotFound")
        if name not in REPOS[repo]:
            return self.reply(404, body=body, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        content = REPOS[repo][name]
        etag = hashlib.sha256(content).hexdigest() if name.endswith(LARGE) else hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if name.endswith(LARGE):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if not body:
            return self.reply(200, content, body=False, **headers)
        self.server.gets[name] += 1
        if self.server.flip == name:
            content = content[:999] + bytes([content[999] ^ 1]) + content[1000:]
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        self.server.ranges.append((name, start))
        part = content[start:]
        self.send_response(206 if start else 200)
        for key, value in {**headers, "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if name == self.server.cut and self.server.cuts > 0:
            self.server.cuts -= 1
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.wfile.write(part)

    def info(self, repo: str) -> dict:
        siblings = []
        for name, content in REPOS[repo].items():
            entry = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {
            "id": repo.split("/", 1)[1],
            "sha": COMMIT,
            "siblings": siblings,
            "private": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }

    def tree(self, repo: str) -> list:
        entries = []
        for name, content in REPOS[repo].items():
            entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return entries


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.gets, server.ranges, server.flip, server.cut, server.cuts = Counter(), [], "", "", 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


CLIENT = """
import sys
from swift.api import SwiftError
from swift_hub_huggingface.hub import HuggingFaceHub
assert not {"torch", "transformers"} & set(sys.modules)
for expression in sys.argv[1:]:
    try:
        print(eval(expression, {"hub": HuggingFaceHub()}), end="\\0")
    except SwiftError as error:
        print(f"{type(error).__name__}: {error}", end="\\0")
"""


@pytest.fixture
def ask(server, tmp_path):
    """Evaluates expressions over `hub` in a process of its own; what each gives: text, or the error's."""

    def ask(*expressions: str, **environ: str) -> list[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        address = f"http://127.0.0.1:{server.server_address[1]}"
        proxies = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, **proxies}
        argv = [sys.executable, "-c", CLIENT, *expressions]
        result = subprocess.run(argv, env=clean | own | environ, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        assert TOKEN not in result.stdout + result.stderr
        return result.stdout.split("\0")[:-1]

    return ask


MODEL = "hub.resolve_model('acme/toy')"


def names(folder: str) -> list[str]:
    return sorted(p.name for p in Path(folder).iterdir())


def test_a_model_is_downloaded_once_and_found_offline(ask, server):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    (folder,) = ask("hub.resolve_model('acme/toy', weights=False)")
    assert names(folder) == ["README.md", "config.json", "tokenizer.json"]
    (offline,) = ask(MODEL, HF_HUB_OFFLINE="1")
    assert offline.startswith("ModelError") and "only in part" in offline and "unset HF_HUB_OFFLINE" in offline

    assert ask(MODEL, MODEL, "hub.resolve_model('acme/toy', revision='v1')") == [folder] * 3
    assert names(folder) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert Path(folder, "model.safetensors").read_bytes() == WEIGHTS
    assert ask(MODEL, HF_HUB_OFFLINE="1") == [folder] == ask(MODEL, **nowhere)
    assert server.gets["model.safetensors"] == 1 == server.gets["config.json"]


def test_a_cut_connection_is_resumed_where_it_broke(ask, server):
    server.cut, server.cuts = "model.safetensors", 1
    (folder,) = ask("hub.resolve_model('acme/big')")
    assert Path(folder, "model.safetensors").read_bytes() == BIG
    starts = [start for name, start in server.ranges if name == "model.safetensors"]
    assert starts[0] == 0 and 0 < starts[1] <= len(BIG) // 2


def test_a_flipped_bit_is_found_and_mended_by_the_next_try(ask, server):
    server.flip = "model.safetensors"
    (answer,) = ask(MODEL)
    assert answer.startswith("ModelError") and "model.safetensors arrived damaged" in answer and "same command again" in answer
    server.flip = ""
    (folder,) = ask(MODEL)
    file = Path(folder, "model.safetensors")
    assert file.read_bytes() == WEIGHTS
    assert server.gets["model.safetensors"] == 2 and server.gets["config.json"] == 1

    file.resolve().write_bytes(WEIGHTS[:-1] + b"!")  # it rots on disk: found without the hub, too
    damaged, missing = ask(MODEL, MODEL, HF_HUB_OFFLINE="1")
    assert "arrived damaged" in damaged and "only in part" in missing


def test_errors_say_what_to_do(ask):
    cases = {
        "hub.resolve_model('acme/nothing')": ["ModelError", "no model acme/nothing", "private", "hf auth login"],
        "hub.resolve_model('acme/gated')": ["ModelError", "gated", "acme/gated", "HF_TOKEN"],
        "hub.resolve_model('acme/toy', revision='v9')": ["ModelError", "no revision 'v9'"],
        "hub.resolve_model('not a/valid/id')": ["ModelError", "no hub id", "ORG/NAME"],
        "hub.resolve_dataset('acme/nothing')": ["DataError", "no dataset acme/nothing"],
        "hub.resolve_dataset('acme/rows', split='validation')": ["DataError", "no split 'validation'", "test, train"],
    }
    for answer, words in zip(ask(*cases), cases.values(), strict=True):
        assert all(word in answer for word in [*words, "fix:"]), answer


def test_unreachable_with_an_empty_cache(ask):
    (answer,) = ask(MODEL, HF_HUB_OFFLINE="1")
    assert "not in the cache" in answer and "HF_HUB_OFFLINE" in answer and "--model" in answer
    (answer,) = ask("hub.resolve_dataset('acme/rows')", HF_ENDPOINT="http://127.0.0.1:9")
    assert answer.startswith("DataError") and "cannot be reached" in answer


def test_a_dataset_folder_holds_the_split_alone(ask):
    asked = [f"hub.resolve_dataset('acme/rows', split={split!r})" for split in ("train", "test", "")]
    train, test, both = ask(*asked)
    files = [sorted(p.name for p in Path(folder).rglob("*.jsonl")) for folder in (train, test, both)]
    assert files == [["train-0.jsonl"], ["test-0.jsonl"], ["test-0.jsonl", "train-0.jsonl"]]
    assert next(Path(train).rglob("*.jsonl")).read_text() == '{"text": "a"}\n'
    again, other = ask(asked[0], "hub.resolve_dataset('acme/rows', subset='x')", HF_HUB_OFFLINE="1")
    assert again == train and "only in part" in other


def test_door_is_light_and_names_a_hub():
    heavy = ("huggingface_hub", "httpx", "yaml", "pydantic")
    code = f"import sys, swift_hub_huggingface.swift_plugin; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    (spec,) = swift_hubs()
    assert spec.prefix == "hf" and spec.priority == 10 and issubclass(HuggingFaceHub, CONTRACTS["hub"])
