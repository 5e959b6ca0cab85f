"""`swift chat`: a conversation in the terminal, or line by line through a pipe."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from swift.api import GenerationResult
from swift.config.sections import GenerationSection
from swift.errors import ConfigError, SwiftError
from swift.inference.open import OpenModel, generation_of, open_model
from swift.inference.source import Source
from swift.upstream import quiet_libraries

try:
    import readline  # noqa: F401  (input() then has a history and can be edited; not on Windows)
except ImportError:
    pass

HELP = """\
/help               this list
/clear              forget the conversation
/system [TEXT]      set the system message (nothing: take it away) and forget the conversation
/set KEY VALUE      change how answers are made: {keys}
/adapter [NAME]     let another adapter answer (nothing: the run's own); there is: {adapters}
/retry              another answer to the last question
/save FILE          add the conversation to FILE, as a jsonl row that training reads
/exit               leave (also Ctrl-D)
A line that ends in \\ goes on in the next. Ctrl-C stops an answer."""


def chat(source: Source, *, sections: Mapping[str, Any], settings: Mapping[str, Any], registry: Any) -> int:
    quiet_libraries()
    with open_model("", sections=sections, registry=registry, settings=settings, source=source) as model:
        talk = Chat(
            model, sections["generation"], adapter=sections["engine"].adapter, tty=sys.stdin.isatty() and sys.stdout.isatty()
        )
        if talk.tty:
            talk.write(f"{source.given} ({source.model_folder.name}); /help lists the commands, Ctrl-D leaves\n")
        return talk.run(terminal_lines() if talk.tty else piped_lines())


class Chat:
    """The state of one conversation.

    Args:
        write: Takes text for the user, pieces of answers too.
        tty: A person reads: show the speed after an answer.
    """

    def __init__(self, model: OpenModel, section: GenerationSection, *, adapter: str = "", tty: bool = False,
                 write: Callable[[str], None] | None = None) -> None:  # fmt: skip
        self.model = model
        self.section = section
        self.tty = tty
        self.write = write or _write
        self.system = model.source.system
        self.history: list[dict[str, str]] = []
        self.adapter = self._known(adapter)

    def run(self, lines: Iterator[str]) -> int:
        """Until the lines end or /exit. A fault is told and the conversation goes on."""
        while True:
            try:
                line = next(lines)
            except StopIteration:
                self.write("\n" if self.tty else "")
                return 0
            except KeyboardInterrupt:  # at the prompt: give up the line
                self.write("\n")
                continue
            try:
                if not self.take(line):
                    return 0
            except SwiftError as error:
                self.write(f"{error}\n")

    def take(self, line: str) -> bool:
        """A command or something to answer. False: leave."""
        if line.startswith("/"):
            return self.command(line)
        if line.strip():
            self.history.append({"role": "user", "content": line})
            self.answer()
        return True

    def command(self, line: str) -> bool:
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word in ("/exit", "/quit"):
            return False
        if word == "/help":
            keys = ", ".join(type(self.section).model_fields)
            self.write(HELP.format(keys=keys, adapters=", ".join(self.model.source.adapters) or "none") + "\n")
        elif word == "/clear":
            self.history.clear()
        elif word == "/system":
            self.system = rest or None
            self.history.clear()
        elif word == "/set":
            self.set(*rest.partition(" ")[::2])
        elif word == "/adapter":
            self.adapter = self._known(rest)
        elif word == "/retry":
            self.retry()
        elif word == "/save":
            self.save(rest)
        else:
            raise ConfigError(
                f"there is no command {word}", fix="/help lists them; a question that begins with / needs a space before it"
            )
        return True

    def set(self, key: str, value: str) -> None:
        fields = type(self.section).model_fields
        if key not in fields:
            raise ConfigError(f"there is no {key!r} to set", fix=f"/set KEY VALUE with one of {', '.join(fields)}")
        given: Any = [value] if key == "stop" and value else [] if key == "stop" else value
        try:
            self.section = type(self.section).model_validate({**self.section.model_dump(), key: given})
        except ValidationError as error:
            raise ConfigError(
                f"{key} cannot be {value!r}: {error.errors()[0]['msg']}", fix=f"now: {getattr(self.section, key)}"
            ) from error

    def retry(self) -> None:
        while self.history and self.history[-1]["role"] == "assistant":
            self.history.pop()
        if not self.history:
            raise ConfigError("there is nothing to answer again", fix="ask something first")
        self.answer()

    def save(self, file: str) -> None:
        if not file:
            raise ConfigError("save where?", fix="/save FILE.jsonl")
        try:
            with Path(file).open("a", encoding="utf-8") as out:
                out.write(json.dumps({"messages": self.messages()}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write {file}: {error.strerror or error}", fix="/save another FILE") from error
        self.write(f"saved in {file}\n")

    def messages(self) -> list[dict[str, str]]:
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.history

    def answer(self) -> None:
        """Answer the last message. What came before Ctrl-C stays in the conversation; a fault takes the question back."""
        started = time.perf_counter()
        pieces: list[str] = []
        try:
            result = self._stream(pieces)
        except KeyboardInterrupt:
            self.write("\n(stopped)")
            result = None
        except SwiftError:
            self.history.pop()
            raise
        seconds = time.perf_counter() - started
        self.write("\n")
        self.history.append({"role": "assistant", "content": "".join(pieces)})
        if self.tty and result is not None and result.completion_tokens:
            cut = ", cut at its longest: /set max_new_tokens" if result.finish_reason == "length" else ""
            speed = result.completion_tokens / max(seconds, 1e-9)
            self.write(f"\x1b[2m{result.completion_tokens} tokens, {speed:.1f} tokens/s{cut}\x1b[0m\n")

    def _stream(self, pieces: list[str]) -> GenerationResult | None:
        while True:
            request = self.model.request(self.messages(), generation_of(self.section), adapter=self.adapter)
            stream = self.model.stream(request)
            try:
                while True:
                    try:
                        piece = next(stream)
                    except StopIteration as end:
                        result: GenerationResult | None = end.value
                        break
                    pieces.append(piece)
                    self.write(piece)
            finally:
                stream.close()
            if result is None or not self.model.overflowed(result):
                return result
            if len(self.history) < 2:
                raise ConfigError(
                    f"these {result.prompt_tokens} tokens leave no room for an answer in the model's context",
                    fix="ask in fewer words",
                )
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        del self.history[0]
        while len(self.history) > 1 and self.history[0]["role"] != "user":
            del self.history[0]
        self.write("(the conversation no longer fits the model's context: its oldest turn is forgotten)\n")

    def _known(self, adapter: str) -> str:
        if adapter and adapter not in self.model.source.adapters:
            known = ", ".join(self.model.source.adapters) or "none"
            raise ConfigError(f"there is no adapter {adapter!r}; there is: {known}", fix="start with --adapters NAME=RUN")
        return adapter


def terminal_lines() -> Iterator[str]:
    """Lines that a person types; a trailing backslash joins the next. No generator: Ctrl-C would end one."""
    return _Lines(lambda first: input("> " if first else "... "))


def piped_lines() -> Iterator[str]:
    def read(first: bool) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    return _Lines(read)


class _Lines:
    def __init__(self, read: Callable[[bool], str]) -> None:
        self.read = read

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        parts: list[str] = []
        while True:
            try:
                line = self.read(not parts)
            except EOFError:
                if parts:
                    return "\n".join(parts)
                raise StopIteration from None
            if not line.endswith("\\"):
                return "\n".join([*parts, line])
            parts.append(line[:-1])


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
