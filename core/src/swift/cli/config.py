"""`swift config schema` and `swift config show`."""

from __future__ import annotations

import json

import yaml

from swift.config.loader import load
from swift.config.schema import VERB_SECTIONS, editor_schema
from swift.errors import ConfigError
from swift.plugins.registry import discover

USAGE = f"""\
swift config schema [--verb VERB]        JSON Schema of a configuration file, for editors; includes installed plugins
swift config show VERB [flags of VERB]   what flags and files resolve to, with the origin of each value (--json: values only)

VERB is one of {", ".join(VERB_SECTIONS)}; default: sft.

An editor finds the schema through the file's first line:
  swift config schema > swift-sft.schema.json
  # yaml-language-server: $schema=swift-sft.schema.json\
"""


def main(argv: list[str]) -> int:
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if words[0] == "schema":
        return schema(words[1:])
    if words[0] == "show":
        return show(words[1:])
    raise ConfigError(f"swift config has no command {words[0]!r}", fix="swift config schema, or swift config show sft ...")


def schema(words: list[str]) -> int:
    words = [part for word in words for part in word.split("=", 1)]
    if words[:1] == ["--verb"]:
        words = words[1:]
    elif words:
        raise ConfigError(f"swift config schema takes --verb VERB, got {' '.join(words)}")
    print(json.dumps(editor_schema(words[0] if words else "sft", discover()), indent=1, ensure_ascii=False))
    return 0


def show(words: list[str]) -> int:
    verb = words.pop(0) if words and words[0] in VERB_SECTIONS else "sft"
    resolved = load(verb, argv=words, registry=discover(), required=())
    plain = resolved.plain()
    if resolved.extra.get("json"):
        print(json.dumps(plain, indent=1, ensure_ascii=False))
        return 0
    for note in resolved.notes:
        print(f"# {note}")
    for section, values in plain.items():
        print(f"{section}:")
        for name, value in values.items():
            text = (
                yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
                .strip()
                .removesuffix("...")
                .strip()
            )
            line = f"  {name}: {text}"
            print(f"{line:40} # {resolved.provenance.get(f'{section}.{name}', 'default')}")
    return 0
