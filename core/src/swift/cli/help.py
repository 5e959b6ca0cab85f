"""`swift`, `swift --help`, `swift VERB --help`: from the verbs' table and the schemas in the index."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence

from swift.cli import flags
from swift.cli.main import NOT_YET, VERBS
from swift.errors import SwiftError
from swift.plugins.registry import Registry, discover

EXAMPLES = """\
Examples
  swift sft --model Qwen/Qwen3-0.6B --dataset rows.jsonl -o runs/a    tune a model
  swift chat runs/a                                                   talk to it
  swift export runs/a                                                 merge it into a plain model folder
  swift plan run.yaml                                                 what would happen, and does it fit?
  swift sft --help --tuner dora                                       all flags, with those of a tuner
"""

USAGE = {
    "sft": "swift sft [run.yaml] --model MODEL --dataset DATASET ... [flags]",
    "pt": "swift pt [run.yaml] --model MODEL --dataset DATASET ... [flags]",
    "train": "swift train [run.yaml] --objective OBJECTIVE --model MODEL --dataset DATASET ... [flags]",
    "rlhf": "swift rlhf [run.yaml] --rlhf_type NAME --model MODEL --dataset DATASET ... [flags]",
    "plan": "swift plan [VERB] [run.yaml | RUN] [flags of that verb; default: of swift sft]",
    "infer": "swift infer RUN | --model MODEL  [--prompt TEXT ... | --input FILE ...] [flags]",
    "chat": "swift chat RUN | --model MODEL  [flags]",
    "export": "swift export RUN | --model MODEL  [flags]",
    "merge-lora": "swift merge-lora RUN  [flags]",
}
EXAMPLE = {
    "sft": "swift sft --model Qwen/Qwen3-0.6B --dataset rows.jsonl --tuner lora --lora.rank 16 -o runs/a",
    "pt": "swift pt --model Qwen/Qwen3-0.6B --dataset books/ --tuner full -o runs/a",
    "train": "swift train --objective sft --model Qwen/Qwen3-0.6B --dataset rows.jsonl",
    "plan": "swift plan --model Qwen/Qwen3-8B --dataset rows.jsonl --tuner lora",
    "infer": 'swift infer runs/a --prompt "Who are you?"',
    "chat": "swift chat runs/a --temperature 0.7",
    "export": "swift export runs/a -o merged",
    "merge-lora": "swift merge-lora runs/a -o merged",
}


def width() -> int:
    """Columns to print in."""
    try:
        return max(60, min(120, int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stdout.fileno()).columns)))
    except (OSError, ValueError):
        return 100


def overview() -> int:
    """`swift --help`: verbs by group."""
    try:
        registry, trouble = discover(), ""
    except SwiftError as error:
        registry, trouble = Registry(), f"plugins cannot be listed: {error.message}; see swift doctor"
    rows = [(group, verb, summary) for verb, (group, summary, _) in VERBS.items()]
    for entry in registry.entries("command"):
        if entry.name not in VERBS:
            rows.append((str(entry.data.get("group") or "Plugins"), entry.name, entry.summary))
    for entry in registry.entries("objective"):
        rows += [("Train", verb, entry.summary) for verb in entry.data.get("verbs", ()) if verb not in VERBS]
    column = max(len(verb) for _, verb, _ in rows) + 2
    lines = ["swift VERB [flags]   tune, use and export large language models", ""]
    for group in dict.fromkeys(group for group, _, _ in rows):
        lines.append(group)
        lines += [f"  {verb:{column}}{summary}" for g, verb, summary in rows if g == group]
        lines.append("")
    lines += [EXAMPLES]
    lines += [f"Not built yet: {', '.join(NOT_YET)}."]
    lines += ["swift VERB --help explains a verb; a YAML file may stand in for flags (swift config schema describes it)."]
    faulty = registry.faulty()
    if faulty:
        names = ", ".join(f"{plugin.id} ({plugin.status})" for plugin in faulty)
        trouble = f"{len(faulty)} installed plugin{'s' * (len(faulty) > 1)} cannot be used: {names}; see swift doctor"
    print("\n".join([*lines, *([trouble] if trouble else [])]))
    return 0


def verb_help(verb: str, argv: Sequence[str]) -> int:
    """`swift VERB --help`: every flag by section; settings of the chosen components, of all with --help-all."""
    registry = discover()
    everything = any(word in ("--help-all", "--help_all") for word in argv)
    print(render(verb, argv, registry, everything=everything, columns=width()))
    return 0


def render(verb: str, argv: Sequence[str], registry: Registry, *, everything: bool = False, columns: int = 100) -> str:
    summary = VERBS[verb][1] if verb in VERBS else f"train with the objective of {verb}"
    lines = [f"swift {verb}: {summary}", "", f"usage: {USAGE.get(verb, f'swift {verb} [run.yaml] [flags]')}"]
    if verb in EXAMPLE:
        lines.append(f"  e.g. {EXAMPLE[verb]}")
    for group in flags.groups(verb, argv, registry, everything=everything):
        lines += ["", group.title, *(line for flag in group.flags for line in flag_lines(flag, columns))]
    lines += ["", *_footer(verb, argv, registry, everything=everything, columns=columns)]
    return "\n".join(lines)


def flag_lines(flag: flags.Flag, columns: int) -> list[str]:
    indent = 30 if columns >= 90 else 8
    head = f"  {flag.name} {flag.value}".rstrip()
    text = flag.help + (f" [{flag.default}]" if flag.default else "")
    body = textwrap.wrap(text, columns - indent, break_on_hyphens=False) or [""]
    if len(head) < indent - 1:
        return [f"{head:{indent}}{body[0]}".rstrip(), *(" " * indent + line for line in body[1:])]
    heads = textwrap.wrap(
        head.strip(), columns, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False, break_long_words=False
    )
    return [*heads, *(" " * indent + line for line in body if line)]


def _footer(verb: str, argv: Sequence[str], registry: Registry, *, everything: bool, columns: int) -> list[str]:
    paragraphs = [
        "Every flag may also be written by its section, --section.field, and stands under the same name in YAML and Python. "
        "Switches: --watch, --no-progress, --shuffle false. Lists: --dataset a.jsonl b.jsonl. "
        "Mappings: --columns question=query, or JSON. ms-swift's spellings are accepted too."
    ]
    if not everything:
        kinds = [slot for slot in flags.chosen(verb, argv, registry) if len(registry.entries(flags.SLOTS[slot])) > 1]
        if kinds:
            named = ", ".join(f"--{kind} NAME" for kind in kinds)
            paragraphs.append(f"Settings of other components: swift {verb} --help with {named}; --help-all shows all of them.")
    return [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, columns, break_on_hyphens=False)]
