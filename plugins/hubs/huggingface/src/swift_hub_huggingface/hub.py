"""Models and datasets of the Hugging Face hub, in huggingface_hub's own cache. Left of the torch line."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)  # fmt: skip

from swift.api import DataError, Hub, ModelError, SwiftError
from swift_hub_huggingface.cache import Notes
from swift_hub_huggingface.selection import dataset_files, is_weight, model_files

UNREACHABLE = (httpx.TransportError, OfflineModeIsEnabled, ConnectionError, TimeoutError)


class HuggingFaceHub(Hub):
    """Honours the library's environment: HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME, HF_TOKEN, ... and `hf auth login`."""

    def resolve_model(self, repo_id: str, *, revision: str | None = None, weights: bool = True) -> Path:
        with translated(ModelError, "model", repo_id, revision):
            return self._resolve(
                "model", repo_id, revision, ModelError, "weights" if weights else "config",
                lambda names: model_files(names, weights=weights),
            )[0]  # fmt: skip

    def resolve_dataset(self, repo_id: str, *, revision: str | None = None, subset: str = "", split: str = "") -> Path:
        """Local folder that holds the data files of the subset and split, and no others."""
        with translated(DataError, "dataset", repo_id, revision):
            try:
                folder, files = self._resolve(
                    "dataset", repo_id, revision, DataError, f"data:{subset}:{split}",
                    lambda names: dataset_files(names, self._readme(repo_id, revision, names), subset=subset, split=split),
                )  # fmt: skip
            except LookupError as error:
                raise DataError(f"dataset {repo_id} has {error.args[0]}", fix="choose one of those") from error
            if not files:
                raise DataError(
                    f"dataset {repo_id} has no json, jsonl, csv, parquet or txt files", fix="convert it, or give local files"
                )
            return _only(folder, files, f"{subset or 'default'}-{split or 'all'}")

    # ------------------------------------------------------------------------------------------------------------------

    def _resolve(
        self, kind: str, repo_id: str, revision: str | None, error: type[SwiftError], key: str,
        choose: Callable[[list[str]], list[str]],
    ) -> tuple[Path, list[str]]:  # fmt: skip
        """(snapshot, files): downloaded, or from the cache where the hub cannot be reached and the cache is whole."""
        options: dict[str, Any] = {"repo_id": repo_id, "repo_type": kind, "revision": revision, "token": self.token}
        try:
            info = HfApi(token=self.token).repo_info(repo_id, repo_type=kind, revision=revision, files_metadata=True)
        except UNREACHABLE as reason:
            return self._from_cache(options, error, key, reason)
        except HfHubHTTPError as reason:
            if reason.response is None or reason.response.status_code < 500:
                raise
            return self._from_cache(options, error, key, reason)
        entries = {s.rfilename: s for s in info.siblings or ()}
        files = choose(sorted(entries))
        hashes = {n: entries[n].lfs.sha256 for n in files if entries[n].lfs is not None}
        if not files:
            return Path(), []
        folder = Path(snapshot_download(**options, allow_patterns=[_literal(n) for n in files]))
        notes = Notes(folder)
        _refuse_corrupt(notes.corrupt(hashes), kind, repo_id, error)
        notes.remember(key, files)
        return folder, files

    def _from_cache(
        self, options: dict[str, Any], error: type[SwiftError], key: str, reason: Exception
    ) -> tuple[Path, list[str]]:
        kind, repo_id = options["repo_type"], options["repo_id"]
        offline = isinstance(reason, OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} cannot be reached ({type(reason).__name__})"
        fix = "unset HF_HUB_OFFLINE to download it" if offline else "check the network or proxy, or set HF_ENDPOINT to a mirror"
        fix += f", or give a local folder as --{kind}"
        try:
            folder = Path(snapshot_download(**options, local_files_only=True, allow_patterns=[]))
        except (LocalEntryNotFoundError, ValueError) as nothing:
            raise error(f"{kind} {repo_id} is not in the cache, and {why}", fix=fix) from nothing
        notes = Notes(folder)
        files = notes.whole(key)
        if files is None and kind == "model":  # downloaded by another tool: the folder's own index tells what belongs to it
            files = _whole_model(folder, weights=key == "weights")
        if files is None:
            raise error(f"{kind} {repo_id} is in the cache only in part, and {why}", fix=fix)
        _refuse_corrupt(notes.corrupt({n: "" for n in files if is_weight(n)}), kind, repo_id, error)
        return folder, files

    def _readme(self, repo_id: str, revision: str | None, names: list[str]) -> str:
        """Text of the dataset's card; "" where it has none."""
        if "README.md" not in names:
            return ""
        file = HfApi(token=self.token).hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision)
        return Path(file).read_text(encoding="utf-8", errors="replace")


def _literal(name: str) -> str:
    """A file name as a shell pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _refuse_corrupt(names: list[str], kind: str, repo_id: str, error: type[SwiftError]) -> None:
    if names:
        raise error(
            f"{kind} {repo_id}: {', '.join(names)} arrived damaged (not the sha256 that the hub states); it was removed",
            fix="run the same command again: only what was removed is downloaded again",
        )


def _whole_model(folder: Path, *, weights: bool) -> list[str] | None:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = model_files(names, weights=weights)
    if "config.json" not in files:
        return None
    there = [n for n in files if is_weight(n)]
    if weights and not any(n in ("model.safetensors", "pytorch_model.bin") for n in there):
        parts = [n.rsplit("-of-", 1)[-1].split(".")[0] for n in there if "-of-" in n]  # model-00001-of-00004.safetensors
        if not parts or not parts[0].isdigit() or len(parts) < int(parts[0]):
            return None
    return files


def _only(folder: Path, files: list[str], label: str) -> Path:
    """A folder of links to just these files: the snapshot itself gathers whatever is ever downloaded of its commit."""
    view = folder.parent.parent / "swift-selections" / f"{folder.name}-{label.replace('/', '_')}"
    wanted = sorted(files)
    if view.is_dir() and sorted(p.relative_to(view).as_posix() for p in view.rglob("*") if p.is_file()) == wanted:
        return view
    view.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=view.parent) as scratch:
        new = Path(scratch) / "view"
        for name in files:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.symlink((folder / name).resolve(), new / name)
            except OSError:  # a system without symbolic links
                shutil.copyfile(folder / name, new / name)
        if view.exists():
            shutil.rmtree(view)
        os.replace(new, view)
    return view


@contextmanager
def translated(error: type[SwiftError], kind: str, repo_id: str, revision: str | None) -> Iterator[None]:
    """huggingface_hub's errors as Swift's. Their own text is left out: it may quote headers and request ids."""
    where = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    login = "`hf auth login`, or HF_TOKEN in the environment"
    try:
        yield
    except SwiftError:
        raise
    except HFValidationError as e:
        raise error(f"{repo_id!r} is no hub id", fix=f"give ORG/NAME, or an existing folder, as --{kind}") from e
    except GatedRepoError as e:
        raise error(
            f"{kind} {repo_id} is gated: its owner gives access on request", fix=f"ask for access at {where}, then {login}"
        ) from e
    except RevisionNotFoundError as e:
        raise error(f"{kind} {repo_id} has no revision {revision!r}", fix=f"see the branches and tags at {where}") from e
    except RepositoryNotFoundError as e:
        raise error(
            f"no {kind} {repo_id} on {constants.ENDPOINT}, or it is private", fix=f"check the id; for a private one {login}"
        ) from e
    except HfHubHTTPError as e:
        code = e.response.status_code if e.response is not None else "?"
        fix = f"check the access token: {login}" if code in (401, 403) else "try again later, or set HF_ENDPOINT to a mirror"
        raise error(f"{constants.ENDPOINT} answered {code} for {kind} {repo_id}", fix=fix) from e
    except (LocalEntryNotFoundError, FileMetadataError, *UNREACHABLE) as e:
        raise error(
            f"the download of {kind} {repo_id} broke off ({type(e).__name__})",
            fix="run the same command again: what has arrived is kept",
        ) from e
    except OSError as e:
        if e.errno == errno.ENOSPC:
            raise error(
                f"no space left on the disk of the cache {constants.HF_HUB_CACHE}",
                fix="free space, or set HF_HOME to another disk",
            ) from e
        raise error(
            f"the cache {constants.HF_HUB_CACHE} cannot be used: {e.strerror or type(e).__name__}",
            fix="set HF_HOME to a folder you own",
        ) from e
