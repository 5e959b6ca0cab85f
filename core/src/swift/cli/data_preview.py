"""`swift data preview`: rows as the model sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from swift.api.contracts.data import Example, Record
from swift.cli.data_settings import Encoding, Settings, encode_plainly, open_encoding, read_settings
from swift.cli.flags import Flag
from swift.data.formats import Converter
from swift.data.media import resolve_media
from swift.data.preview import MEDIA, PreviewRow, page, preview_row, render
from swift.data.sources import Reject, Row, resolve
from swift.errors import ConfigError, DataError
from swift.run_dir import write_text


def main(argv: Sequence[str], own: Sequence[Flag]) -> int:
    settings = read_settings(argv, own, need_data=False)
    asked = [place_of(text) for text in settings.own["row"]]
    refs = list(settings.refs) or list(dict.fromkeys(file for file, _ in asked))
    if not refs:
        raise ConfigError("which data?", fix="name files, folders, a dataset of `swift list datasets`, or -c run.yaml")
    encoding = open_encoding(settings)
    rows: list[PreviewRow] = []
    for record in records_of(settings, refs, asked):
        bare = {key: value for key, value in record.items() if key not in MEDIA}
        try:
            rows.append(preview_row(record, encoded(record, encoding, settings), encoding.tokenizer))
        except DataError as error:
            settings.say(f"{record.get('_origin')}: {error.message}" + (f" ({error.fix})" if error.fix else ""))
            if len(bare) < len(record):  # a model of text: what it would be without its media
                rows.append(preview_row(record, encoded(bare, encoding, settings), encoding.tokenizer))
    if not rows:
        raise DataError("there is no row to show", fix=f"swift data check {refs[0]}")
    if settings.own["json"]:
        print(json.dumps([as_json(row) for row in rows], ensure_ascii=False, indent=1))
    elif not settings.own["html"]:
        console = Console(highlight=False)
        for number, row in enumerate(rows):
            if number:
                console.print()
            console.print(
                render(row, console, ids=settings.own["ids"], limit=settings.own["show"]), soft_wrap=not console.is_terminal
            )
    if settings.own["html"]:
        write_text(Path(settings.own["html"]).expanduser(), page(rows, f"{', '.join(refs)} as {encoding.model} sees it"))
        settings.say(f"{len(rows)} rows are in {settings.own['html']}")
    return 0


def encoded(record: Record, encoding: Encoding, settings: Settings) -> Example:
    """Where no objective is named, plain text is shown as such, and both answers of a pair."""
    plainly = not settings.objective_is_named and ("messages" not in record or bool(record.get("rejected")))
    encoding.encoder.prepare([record])
    return (encode_plainly if plainly else encoding.encode)(record, encoding.encoder)


def place_of(text: str) -> tuple[str, int]:
    """Raises `ConfigError` for what is not FILE:LINE."""
    file, _, line = text.rpartition(":")
    if not file or not line.isdigit():
        raise ConfigError(f"--row {text}: a row is named by file and line", fix="--row rows.jsonl:12")
    return file, int(line)


def records_of(settings: Settings, refs: Sequence[str], asked: Sequence[tuple[str, int]]) -> Iterator[Record]:
    """The rows that were asked for, or the first ones. Reads no further than it must.

    Raises:
        DataError: A row that was asked for is not there, or cannot be used.
    """
    data: Any = settings.data
    names = {key: value for key, value in (("name", data.model_name), ("author", data.model_author)) if value is not None}
    wanted, count = set(asked), 0
    for ref in refs:
        source = resolve(ref, registry=settings.registry, hub=settings.resolved.sections["model"].hub)  # type: ignore[attr-defined]
        convert = Converter(ref, columns={**source.columns, **data.columns}, names=names)
        loose = Converter(ref, columns={**source.columns, **data.columns}, names=names, need_answer=False)
        for item in source.rows(seed=data.data_seed):
            here = next((place for place in wanted if item.line == place[1] and same_file(place[0], item.file)), None)
            if asked and here is None:
                continue
            if isinstance(item, Reject):
                if asked:
                    raise DataError(str(item), fix=f"swift data check {ref}")
                settings.say(str(item))
                continue
            for record in prepared((convert, loose), item, settings, strict=bool(asked)):
                yield record
                count += 1
            wanted.discard(here or ("", 0))
            if (asked and not wanted) or (not asked and count >= settings.own["rows"]):
                return
    if wanted:
        listed = ", ".join(f"{file}:{line}" for file, line in sorted(wanted))
        raise DataError(f"there is no row at {listed}", fix="rows are named by the line that they begin in, counted from 1")


def prepared(ways: tuple[Converter, Converter], item: Row, settings: Settings, *, strict: bool) -> Iterator[Record]:
    """The row as it is trained on; one that lacks but an answer is shown all the same."""
    try:
        try:
            record = ways[0](item)
        except DataError as error:
            record = ways[1](item)
            settings.say(f"{item.file}:{item.line}: {error.message}; a run that learns answers leaves it out")
    except DataError as error:
        if strict:
            raise DataError(f"{item.file}:{item.line}: {error.message}", fix=error.fix) from error
        settings.say(f"{item.file}:{item.line}: {error.message}")
        return
    try:
        record = resolve_media(
            record, base=Path(item.file).parent, media_folder=settings.data.media_folder, media_urls=settings.data.media_urls
        )
    except DataError as error:
        settings.say(f"{item.file}:{item.line}: {error.message}")
    yield record


def same_file(asked: str, file: str) -> bool:
    return asked == file or Path(asked).expanduser().resolve() == Path(file).resolve() or Path(file).name == asked


def as_json(row: PreviewRow) -> dict[str, Any]:
    documents = [
        {
            "title": d.title, "tokens": d.length, "trained": d.trained,
            "ids": [i for t in d.tokens for i in t.ids],
            "loss_weight": [t.weight for t in d.tokens for _ in t.ids],
            "text": "".join(t.text * t.count for t in d.tokens),
        }
        for d in row.documents
    ]  # fmt: skip
    media = [{"kind": m.kind, "name": m.name, "size": m.size, "fault": m.fault} for m in row.media]
    return {"origin": row.origin, "documents": documents, "media": media, "values": dict(row.values)}
