"""`swift infer`: prompts or files in, answers out, in order; an interrupted file goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from swift.api import Generation, GenerationRequest, GenerationResult, Record
from swift.data.media_rows import with_files
from swift.data.records import load_records
from swift.errors import ConfigError, DataError
from swift.inference.open import OpenModel, generation_of, open_model
from swift.inference.source import Source
from swift.upstream import quiet_libraries

NOT_FOR_THE_MODEL = ("loss_weight",)
"""Keys of a message that only training reads."""


@dataclass(frozen=True)
class Row:
    """One thing to answer."""

    index: int
    messages: tuple[Mapping[str, Any], ...]
    text: str | None = None
    """Plain text to go on with, instead of messages."""
    tools: tuple[Any, ...] = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None
    origin: str = ""


def infer(source: Source, *, sections: Mapping[str, Any], settings: Mapping[str, Any], registry: Any,
          prompts: Sequence[str], as_json: bool) -> int:  # fmt: skip
    """Answer everything that was asked. Exit code 0, or that of `DataError` where rows had to be left out.

    Raises:
        SwiftError: Before the model is loaded for faults of the input or of the result file.
    """
    quiet_libraries()
    section, engine = sections["infer"], sections["engine"]
    if engine.adapter and engine.adapter not in source.adapters:
        known = ", ".join(source.adapters) or "none"
        raise ConfigError(f"there is no adapter {engine.adapter!r}; there is: {known}", fix=f"--adapters {engine.adapter}=RUN")
    rows, unreadable = read_rows(section.input, prompts, registry)
    generation = generation_of(sections["generation"])
    keys = {row.index: key_of(row, source, generation, engine.adapter) for row in rows}
    results = ResultFile(Path(section.result)) if section.result else None
    bad = unreadable
    done = results.done(keys) if results else set()
    todo = [row for row in rows if row.index not in done]
    if done:
        say(f"{len(done)} of {len(rows)} rows are answered already in {section.result}; going on with {len(todo)}")
    if todo:
        with open_model("", sections=sections, registry=registry, settings=settings, source=source) as model:
            if len(rows) == 1 and prompts and section.stream and not as_json and not results:
                stream_one(model, model.request(rows[0].messages, generation, adapter=engine.adapter))
            else:
                out: TextIO | ResultFile = results or sys.stdout
                style = "json" if as_json or section.input or results else "text"
                bad += answer(model, todo, generation, engine.adapter, section.batch_size, keys, out, style, len(rows))
    if results:
        say(f"answers: {section.result}")
    if bad:
        say(f"{bad} of {len(rows) + unreadable} rows were left out; the reasons stand above")
    return DataError.exit_code if bad else 0


def read_rows(files: Sequence[str], prompts: Sequence[str], registry: Any) -> tuple[list[Row], int]:
    """(rows to answer, number of rows that could not be read); each of the latter is reported with file and line.

    Raises:
        DataError: A file is missing, or there is nothing to answer.
    """
    rows = [Row(i, ({"role": "user", "content": prompt},)) for i, prompt in enumerate(prompts)]
    bad = 0
    if files:
        records = load_records(list(files), registry=registry, max_bad_fraction=1.0, need_answer=False)
        for reject in records.rejects:
            say(f"left out: {reject}")
        bad = len(records.rejects)
        rows += [row_of(len(rows) + i, record) for i, record in enumerate(records)]
    if not rows:
        raise DataError("there is nothing to answer", fix='--prompt "...", --input FILE.jsonl, or text on standard input')
    return rows, bad


def row_of(index: int, record: Record) -> Row:
    """Without the last answer, which becomes the reference."""
    origin = str(record.get("_origin", ""))
    if record.get("messages") is None:
        return Row(index, (), text=str(record.get("text", "")), origin=origin)
    messages = [{k: v for k, v in m.items() if k not in NOT_FOR_THE_MODEL} for m in with_files(record)]
    reference = None
    if messages and messages[-1]["role"] == "assistant":
        reference = messages.pop().get("content")
    options = dict(record.get("chat_template_kwargs") or {})
    return Row(index, tuple(messages), None, tuple(record.get("tools") or ()), options, reference, origin)


def key_of(row: Row, source: Source, generation: Generation, adapter: str) -> str:
    """Tells a row of the result file from an answer to something else, or by something else."""
    asked = {
        "messages": row.messages, "text": row.text, "tools": row.tools, "generation": asdict(generation), "adapter": adapter,
        "model": str((source.adapter or source.model_folder).resolve()), "system": source.system,
        "template": [source.chat, source.chat_template, dict(source.template_options), dict(row.template_options),
                     *([dict(source.pixels)] if source.pixels else [])],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


class ResultFile:
    """A jsonl file that only grows, in whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def done(self, keys: Mapping[int, str]) -> set[int]:
        """Indices that are answered already. A last line that a kill has torn is taken off.

        Raises:
            ConfigError: The file answers other requests, or is no result file.
        """
        if not self.path.exists():
            self._try_to_write()
            return set()
        self._mend()
        found = set()
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                index, key = int(row["index"]), str(row["hash"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{self.path}:{number} is not a line that `swift infer` wrote, so nothing is added to it",
                    fix="choose another --result",
                ) from error
            if keys.get(index) != key:
                raise ConfigError(
                    f"{self.path}:{number} answers another request, or was made by another model or other settings",
                    fix="choose another --result, or delete the file to start anew",
                )
            found.add(index)
        return found

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Written through to the disk before it returns."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._fault(error) from error

    def _try_to_write(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
        except OSError as error:
            raise self._fault(error) from error

    def _mend(self) -> None:
        try:
            with self.path.open("r+b") as file:
                data = file.read()
                whole = data.rfind(b"\n") + 1
                if whole < len(data):
                    file.truncate(whole)
                    say(f"{self.path}: took off a torn last line")
        except OSError as error:
            raise self._fault(error) from error

    def _fault(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"cannot write {self.path}: {error.strerror or error}; what was answered before stays in it",
            fix="free space or permissions there and repeat the command: it goes on where it stopped",
        )


def answer(model: OpenModel, rows: Sequence[Row], generation: Generation, adapter: str, batch_size: int,
           keys: Mapping[int, str], out: TextIO | ResultFile, style: str, total: int) -> int:  # fmt: skip
    """Answer in batches, writing each in order when it is whole. Returns how many rows had to be left out."""
    bad = 0
    bar = Progress(
        TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True),
        disable=not sys.stderr.isatty(), transient=True,
    )  # fmt: skip
    with bar if len(rows) > 1 else nullcontext():
        task = bar.add_task("", total=total, completed=total - len(rows))
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            requests = [request_of(model, row, generation, adapter) for row in batch]
            lines = []
            for row, request, result in zip(batch, requests, results_of(model, batch, requests), strict=True):
                if isinstance(result, str):
                    bad += 1
                    say(f"left out: {row.origin or f'prompt {row.index + 1}'}: {result}")
                else:
                    lines.append(line_of(row, request, result, keys[row.index]))
            if isinstance(out, ResultFile):
                out.append(lines)
            else:
                for line in lines:
                    print(
                        json.dumps(line, ensure_ascii=False) if style == "json" else as_text(line, total), file=out, flush=True
                    )
            bar.advance(task, len(batch))
    return bad


def request_of(model: OpenModel, row: Row, generation: Generation, adapter: str) -> GenerationRequest:
    if row.text is not None:
        return GenerationRequest(prompt=row.text, generation=generation, adapter=adapter)
    request = model.request(row.messages, generation, adapter=adapter, tools=row.tools)
    if row.template_options:
        request = replace(request, template_options={**request.template_options, **row.template_options})
    return request


def results_of(
    model: OpenModel, rows: Sequence[Row], requests: Sequence[GenerationRequest]
) -> Iterator[GenerationResult | str]:
    """In order; for a row that cannot be answered, the reason. One bad row does not spoil its batch."""
    try:
        found = dict(model.engine.generate(requests))
    except DataError as error:
        if len(requests) == 1:
            yield error.message
            return
        for row, request in zip(rows, requests, strict=True):
            yield from results_of(model, [row], [request])
        return
    for index in range(len(requests)):
        result = found[index]
        yield (
            f"its {result.prompt_tokens} tokens leave no room for an answer in the model's context"
            if model.overflowed(result)
            else result
        )


def line_of(row: Row, request: GenerationRequest, result: GenerationResult, key: str) -> dict[str, Any]:
    line: dict[str, Any] = {"index": row.index}
    if request.prompt is not None:
        line["prompt"] = request.prompt
    else:
        line["messages"] = [dict(m) for m in request.messages]
    line["response"] = result.text
    if row.reference is not None:
        line["reference"] = row.reference
    return line | {
        "finish_reason": result.finish_reason, "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens, "hash": key,
    }  # fmt: skip


def as_text(line: Mapping[str, Any], total: int) -> str:
    """For people: the answer alone, or under its question where there are several."""
    if total == 1:
        return line["response"]
    asked = line["prompt"] if "prompt" in line else line["messages"][-1]["content"]
    if not isinstance(asked, str):  # parts of text and media
        asked = "".join(part.get("text", f"<{part['type']} {part.get('path', '')}>") for part in asked)
    return f"> {asked}\n{line['response']}\n"


def stream_one(model: OpenModel, request: GenerationRequest) -> None:
    """One answer, shown while it is made. Raises `DataError` where the prompt is too long."""
    stream = model.stream(request)
    result = None
    while True:
        try:
            piece = next(stream)
        except StopIteration as end:
            result = end.value
            break
        print(piece, end="", flush=True)
    if result is not None and model.overflowed(result):
        raise DataError(
            f"the prompt's {result.prompt_tokens} tokens leave no room for an answer in the model's context", fix="shorten it"
        )
    print(flush=True)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
