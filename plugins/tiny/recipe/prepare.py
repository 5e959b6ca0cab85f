"""Step 1 of the recipe: turn the source texts into training files. `python prepare.py SOURCE_FOLDER OUTPUT_FOLDER`

SOURCE_FOLDER is the `data/` folder of LLaMA-Factory (Apache-2.0), or a copy of these files of it: wiki_demo.txt (English
Wikipedia, CC BY-SA), alpaca_en_demo.json, glaive_toolcall_en_demo.json, dpo_en_demo.json, kto_en_demo.json, identity.json.

Writes
- text.jsonl         {"text"}: everything but the identity rows as plain text, for `swift pt`;
- chat.jsonl         {"messages"}: Alpaca rows with answers that a model of this size can learn, and the talk of
                     small_talk.json often enough to be remembered, for `swift sft`;
- vocabulary.jsonl   {"text"}: what the tokenizer learns from. The identity rows are here, so that the model can spell
                     them, and nowhere else: they are what the quickstart teaches.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

LONGEST_ANSWER = 900
"""Characters; a model of four million parameters loses the thread in longer ones."""
SMALL_TALK_COPIES = 8
VOCABULARY_COPIES = 8
WIKI_PASSAGE = 1500
HERE = Path(__file__).parent


def read(file: Path) -> list[dict]:
    return json.loads(file.read_text(encoding="utf-8"))


def write(file: Path, rows: Iterable[dict]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def passages(text: str, size: int) -> list[str]:
    """Split on sentence ends into passages of about `size` characters."""
    out: list[str] = []
    for sentence in re.split(r"(?<=[.!?])(?=\s|[A-Z])", text):
        if out and len(out[-1]) + len(sentence) < size:
            out[-1] += sentence
        else:
            out.append(sentence.strip())
    return [p for p in out if p]


def user_text(row: dict) -> str:
    return f"{row['instruction']}\n{row['input']}" if row.get("input") else row["instruction"]


def conversation(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def small_talk() -> list[dict]:
    """Every question once; the answers of its group take turns."""
    rows = []
    for group in read(HERE / "small_talk.json"):
        for number, question in enumerate(group["questions"]):
            answer = group["answers"][number % len(group["answers"])]
            rows.append(conversation(question, answer))
    return rows


def main(source: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    wiki = (source / "wiki_demo.txt").read_text(encoding="utf-8").splitlines()
    texts = [p for line in wiki for p in passages(line, WIKI_PASSAGE)]
    alpaca = read(source / "alpaca_en_demo.json")
    texts += [f"{user_text(row)}\n\n{row['output']}" for row in alpaca]
    for row in read(source / "glaive_toolcall_en_demo.json"):
        spoken = [turn["value"] for turn in row["conversations"] if turn["from"] in ("human", "gpt")]
        texts.append("\n\n".join(spoken))
    texts += [f"{row['conversations'][0]['value']}\n\n{row['chosen']['value']}" for row in read(source / "dpo_en_demo.json")]
    texts += ["\n\n".join(m["content"] for m in row["messages"]) for row in read(source / "kto_en_demo.json") if row["label"]]

    talk = small_talk()
    texts += ["\n\n".join(m["content"] for m in row["messages"]) for row in talk]
    rows = talk * SMALL_TALK_COPIES + [
        conversation(user_text(row), row["output"])
        for row in alpaca
        if len(row["output"]) <= LONGEST_ANSWER and len(user_text(row)) <= LONGEST_ANSWER
    ]
    spelled = [f"{m['role']}\n{m['content']}" for row in rows for m in row["messages"]]
    spelled += [f"{row['instruction']}\n{row['output']}" for row in read(source / "identity.json")]

    write(output / "text.jsonl", ({"text": text} for text in texts))
    write(output / "chat.jsonl", rows)
    write(output / "vocabulary.jsonl", ({"text": text} for text in texts + spelled * VOCABULARY_COPIES))
    print(f"{output}: {len(texts)} texts ({sum(map(len, texts)) / 1e6:.1f} M characters), {len(rows)} conversations")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
