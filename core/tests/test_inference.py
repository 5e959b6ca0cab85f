"""From a run directory, model, or adapter to answers: what SOURCE means, batches with resume, the terminal chat."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift.api import Generation
from swift.cli.chat import main as chat_main
from swift.cli.infer import main as infer_main
from swift.config.loader import load as load_config
from swift.config.sections import GenerationSection
from swift.errors import CheckpointError, ConfigError, DataError, ModelError, PluginNotFound
from swift.inference.chat import Chat, _Lines
from swift.inference.open import end_of_turn, open_model
from swift.inference.source import resolve_source
from swift.plan.plan import Plan
from swift.plugins.loading import component_of, instantiate
from swift.plugins.registry import discover
from swift.run_dir import RunDir
from swift.testing import CONVERSATIONS, byte_tokenizer, tiny_folder

REGISTRY = discover()
MODELS = REGISTRY.find("model", "transformers")


TEXTS = {0: "so say we all so say we all", 5: "rhyme in time rhyme in time"}
"""Seed of a run -> what it learns to say."""


def make_run(path: Path, base: Path, *, tuner: str = "lora", objective: str = "sft", seed: int = 0, steps: int = 3,
             system: str | None = None) -> RunDir:  # fmt: skip
    """A run directory as training leaves it, three real steps away from the base."""
    part = instantiate(component_of(REGISTRY.find("tuner", tuner)))
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = part.apply(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), seed=seed)
    optimizer = torch.optim.AdamW(part.parameter_groups(model, learning_rate=3e-2, weight_decay=0.0))
    torch.manual_seed(seed)
    ids = tokenizer(TEXTS[seed], return_tensors="pt").input_ids
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    plan = Plan(
        verb=objective,
        config={
            "model": {"id": str(base), "dtype": "auto", "attention": "auto", "init": "pretrained"},
            "template": {"name": "auto", "system": system, "options": {}}, "train": {"seed": 42},
        },
        components={
            "tuner": component_of(REGISTRY.find("tuner", tuner)), "model": component_of(MODELS),
            "objective": component_of(REGISTRY.find("objective", objective)),
        },
        model_folder=str(base),
    )  # fmt: skip
    run = RunDir.create(path, plan, {"model": str(base)})
    for folder in (run.checkpoint_folder / "step-000003" / "model", run.final):
        folder.mkdir(parents=True)
        part.save(model, folder)
        tokenizer.save_pretrained(folder)
    (run.checkpoint_folder / "step-000003" / "manifest.json").write_text('{"files": {}}', encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inference")


@pytest.fixture(scope="module")
def base(root: Path) -> Path:
    return tiny_folder(root / "base")


@pytest.fixture(scope="module")
def run(root: Path, base: Path) -> RunDir:
    return make_run(root / "run", base)


def sections(*argv: str) -> dict[str, Any]:
    return dict(load_config("infer", argv=["x", *argv], registry=REGISTRY, environ={}).sections)


def source_of(given: Any, *argv: str) -> Any:
    return resolve_source(str(given), sections=sections(*argv), registry=REGISTRY)


def ask(given: Any, *argv: str, text: str = "Who are you?", tokens: int = 12) -> str:
    with open_model(str(given), sections=sections(*argv), registry=REGISTRY) as model:
        return model.ask([{"role": "user", "content": text}], Generation(max_new_tokens=tokens)).text


def reference(folder: Path, adapter: Path | None = None, text: str = "Who are you?", tokens: int = 12) -> str:
    """What transformers (and PEFT) answer by themselves."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)) if adapter else model
    tokenizer = byte_tokenizer()
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.eval().generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


# ----------------------------------------------------------------------------------------------------------------- sources


def test_a_run_answers_with_its_adapter_and_the_base_without(run: RunDir, base: Path) -> None:
    tuned, plain = reference(base, run.final), reference(base)
    assert tuned != plain
    assert ask(run) == tuned
    assert ask(run, "--base_only") == plain
    assert ask(base) == plain


@pytest.mark.parametrize("inside", ["final", "checkpoints/step-000003", "checkpoints/step-000003/model"])
def test_a_folder_inside_a_run_is_that_run(run: RunDir, base: Path, inside: str) -> None:
    source = source_of(run.path / inside)
    assert source.run.path == run.path
    assert source.model_folder == base
    assert source.adapter == run.weights("" if inside == "final" else "step-000003")


def test_a_run_of_whole_weights_is_loaded_itself(root: Path, base: Path) -> None:
    run = make_run(root / "whole", base, tuner="full")
    source = source_of(run)
    assert (source.model_folder, source.adapter, source.tuner) == (run.final, None, None)
    assert ask(run) == reference(run.final) != reference(base)
    assert ask(run, "--base_only") == reference(base)


def test_a_peft_folder_of_any_origin_finds_its_base(run: RunDir, base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "downloaded"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_bytes((run.final / name).read_bytes())
    source = source_of(adapter)
    assert (source.adapter, source.model_folder, source.run) == (adapter, base, None)
    assert ask(adapter) == ask(run)
    moved = tmp_path / "elsewhere"
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(moved)}), encoding="utf-8"
    )
    with pytest.raises(ModelError, match=f"trained on {moved}.*not there") as error:
        source_of(adapter)
    assert "--model" in error.value.fix
    assert source_of(adapter, "--model", str(base)).model_folder == base


def test_the_template_of_training_is_the_one_that_is_used(run: RunDir, root: Path, base: Path) -> None:
    other = make_run(root / "own-template", base)
    for folder in (other.final, other.checkpoint_folder / "step-000003" / "model"):
        (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}=", encoding="utf-8")
    with open_model(str(other), sections=sections(), registry=REGISTRY) as model:
        assert model.engine.tokenizer.chat_template == "{{ messages[-1].content }}="
    template = root / "mine.jinja"
    template.write_text("{{ messages[0].content }}?", encoding="utf-8")
    with open_model(str(other), sections=sections("--template", str(template)), registry=REGISTRY) as model:
        assert model.engine.tokenizer.chat_template == "{{ messages[0].content }}?"


def test_the_system_message_of_training_comes_back(root: Path, base: Path) -> None:
    run = make_run(root / "system", base, system="Be brief.")
    with open_model(str(run), sections=sections(), registry=REGISTRY) as model:
        asked = model.request([{"role": "user", "content": "Hi"}], Generation()).messages
        own = model.request([{"role": "system", "content": "Mine"}, {"role": "user", "content": "Hi"}], Generation()).messages
    assert asked[0] == {"role": "system", "content": "Be brief."}
    assert [m["content"] for m in own] == ["Mine", "Hi"]
    assert source_of(run, "--system", "Another.").system == "Another."


def test_a_run_on_plain_text_continues_prompts(root: Path, base: Path) -> None:
    run = make_run(root / "pt", base, objective="pt")
    source = source_of(run)
    assert not source.chat
    assert "plain text" in " ".join(source.notes)
    with open_model(str(run), sections=sections(), registry=REGISTRY) as model:
        assert model.request([{"role": "user", "content": "Once"}], Generation()).prompt == "Once"
    assert not source_of(base, "--template", "none").chat


def test_an_unfinished_run_answers_with_its_newest_checkpoint_and_says_so(root: Path, base: Path) -> None:
    run = make_run(root / "unfinished", base)
    for file in run.final.iterdir():
        file.unlink()
    run.final.rmdir()
    source = source_of(run)
    assert source.adapter == run.checkpoint_folder / "step-000003" / "model"
    assert "swift sft --resume" in " ".join(source.notes)
    (run.checkpoint_folder / "step-000003" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="saved nothing yet") as error:
        source_of(run)
    assert "--resume" in error.value.fix


def test_a_base_that_was_moved_is_named_and_can_be_given(root: Path) -> None:
    base = tiny_folder(root / "old-place")
    run = make_run(root / "moved-base", base)
    base.rename(root / "new-place")
    with pytest.raises(ModelError, match="old-place.*not there any more") as error:
        source_of(run)
    assert "--model" in error.value.fix
    assert ask(run, "--model", str(root / "new-place")) == reference(root / "new-place", run.final)


def test_an_adapter_of_another_model_is_refused_in_plain_words(run: RunDir, root: Path) -> None:
    other = tiny_folder(root / "other", hidden_size=32)
    with pytest.raises(ModelError, match="does not fit"):
        ask(run, "--model", str(other))


def test_words_that_mean_nothing_are_answered(run: RunDir, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a run directory"):
        source_of(tmp_path)
    with pytest.raises(ModelError, match="there is no") as error:
        source_of(run.path.parent / "rnu")
    assert str(run.path) in error.value.fix
    with pytest.raises(ConfigError, match="two models"):
        source_of(base, "--model", str(base))
    with pytest.raises(ConfigError, match="for runs"):
        source_of(base, "--base_only")
    with pytest.raises(ConfigError, match="adapter poet"):
        source_of(run, "--adapters", f"poet={tmp_path}/nothing")
    with pytest.raises(CheckpointError, match="no checkpoint 'step-9'"):
        source_of(run, "--checkpoint", "step-9")


def test_a_plan_decides_no_import_by_itself(run: RunDir, tmp_path: Path) -> None:
    """A run directory may come from anywhere: what it names must be installed, and the installed code is taken."""
    plan = run.plan
    forged = replace(plan.components["tuner"], impl="os:system")
    path = tmp_path / "forged"
    RunDir.create(path, replace(plan, components={**plan.components, "tuner": forged}), {})
    (path / "final").symlink_to(run.final)
    assert source_of(path).tuner.impl == run.plan.components["tuner"].impl
    unknown = replace(plan.components["tuner"], name="nobody", dist="")
    RunDir.create(tmp_path / "b", replace(plan, components={**plan.components, "tuner": unknown}), {})
    (tmp_path / "b" / "final").symlink_to(run.final)
    with pytest.raises(PluginNotFound):
        source_of(tmp_path / "b")


def test_answers_end_where_turns_end_in_the_template(tmp_path: Path) -> None:
    """A base whose config names another end token than ChatML's: the commonest way to an answer that never stops."""
    folder = tiny_folder(tmp_path)
    tokenizer = byte_tokenizer()
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.save_pretrained(folder)
    with open_model(str(folder), sections=sections(), registry=REGISTRY) as opened:
        assert opened.engine.stop_ids == set(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert end_of_turn(tokenizer) is None


# ------------------------------------------------------------------------------------------------------------------ infer


def infer(*argv: str) -> int:
    return infer_main([*argv, "--max_new_tokens", "8"])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_one_prompt_is_answered_on_stdout(run: RunDir, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = reference(base, run.final, tokens=8) + "\n"
    assert infer(str(run), "--prompt", "Who are you?") == 0
    assert capsys.readouterr().out == expected
    assert infer("--model", str(run), "--prompt", "Who are you?", "--stream", "false") == 0
    assert capsys.readouterr().out == expected
    assert infer(str(run), "--prompt", "Who are you?", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["response"] + "\n" == expected
    assert row["messages"] == [{"role": "user", "content": "Who are you?"}]


def test_piped_lines_are_prompts(run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n\nWho?\n"))
    assert infer(str(run)) == 0
    out = capsys.readouterr().out
    assert out.startswith("> Hi\n") and "\n> Who?\n" in out
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(DataError, match="nothing to answer"):
        infer(str(run))


def test_a_file_is_answered_row_by_row_with_the_last_answer_as_reference(run: RunDir, base: Path, tmp_path: Path) -> None:
    rows: list[Any] = [*CONVERSATIONS[:3], {"instruction": "Say hi", "input": "", "output": "hi"}, {"prompt": "Only a prompt"}]
    rows.append({"messages": [*CONVERSATIONS[0]["messages"], {"role": "user", "content": "And now?"}]})
    file, result = write_rows(tmp_path / "in.jsonl", rows[:3]), tmp_path / "out.jsonl"
    more = [write_rows(tmp_path / f"{i}.jsonl", [row]) for i, row in enumerate(rows[3:])]
    argv = (str(run), "--input", str(file), *map(str, more), "--result", str(result), "--batch_size", "2")
    assert infer(*argv) == 0
    got = rows_of(result)
    assert [r["index"] for r in got] == list(range(6))
    assert [r.get("reference") for r in got] == ["It is 1.", "It is 2.", "It is 3.", "hi", None, None]
    assert [len(r["messages"]) for r in got] == [1, 1, 1, 1, 1, 3]
    for row in got[:5]:
        assert row["response"] == reference(base, run.final, row["messages"][-1]["content"], tokens=8)


def test_an_interrupted_file_goes_on_where_it_stopped(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, result = write_rows(tmp_path / "in.jsonl", CONVERSATIONS), tmp_path / "out.jsonl"
    argv = (str(run), "--input", str(file), "--result", str(result), "--batch_size", "3")
    assert infer(*argv) == 0
    whole = result.read_bytes()
    lines = whole.splitlines(keepends=True)
    result.write_bytes(b"".join(lines[:4]) + lines[4][:37])  # as a kill leaves it
    assert infer(*argv) == 0
    assert result.read_bytes() == whole
    told = capsys.readouterr().err
    assert "torn last line" in told and "4 of 8 rows are answered already" in told
    before = result.stat().st_mtime_ns
    assert infer(*argv) == 0
    assert (result.read_bytes(), result.stat().st_mtime_ns) == (whole, before)


def test_a_killed_process_loses_no_answer(run: RunDir, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "in.jsonl", CONVERSATIONS * 8)
    result = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "swift", "infer", str(run), "--input", str(file), "--result", str(result)]
    command += ["--batch_size", "2", "--max_new_tokens", "8"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not result.exists() or result.stat().st_size < 1000):
        time.sleep(0.02)
    process.kill()
    process.wait()
    written = result.read_bytes()
    kept = written[: written.rfind(b"\n") + 1]
    assert 0 < kept.count(b"\n") < 64
    assert infer(str(run), "--input", str(file), "--result", str(result), "--batch_size", "16") == 0
    assert result.read_bytes().startswith(kept)
    assert [r["index"] for r in rows_of(result)] == list(range(64))


def test_a_result_file_never_mixes_answers(run: RunDir, base: Path, tmp_path: Path) -> None:
    file, result = write_rows(tmp_path / "in.jsonl", CONVERSATIONS[:2]), tmp_path / "out.jsonl"
    argv = ("--input", str(file), "--result", str(result))
    assert infer(str(run), *argv) == 0
    whole = result.read_bytes()
    for others in ((str(run), *argv, "--temperature", "1"), (str(base), *argv), (str(run), *argv, "--base_only")):
        with pytest.raises(ConfigError, match="answers another request"):
            infer(*others)
    result.write_text('{"my": "notes"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="is not a line that `swift infer` wrote"):
        infer(str(run), *argv)
    assert result.read_text(encoding="utf-8") == '{"my": "notes"}\n'
    assert whole


def test_bad_rows_are_told_and_the_others_answered(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, result = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = json.dumps(CONVERSATIONS[0])
    file.write_text(f'{good}\n{{"messages": [{{"role": "user"\n{good}\n{json.dumps({"prompt": "x" * 600})}\n', encoding="utf-8")
    assert infer(str(run), "--input", str(file), "--result", str(result)) == DataError.exit_code
    told = capsys.readouterr().err
    assert f"{file}:2" in told or "in.jsonl:2" in told
    assert "in.jsonl:4" in told and "no room for an answer" in told
    assert "2 of 4 rows were left out" in told
    assert [r["index"] for r in rows_of(result)] == [0, 1]


def test_a_row_that_the_template_refuses_spoils_no_batch(
    root: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}{{ messages[0].content }}",
        encoding="utf-8",
    )
    strange = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
    file = write_rows(tmp_path / "in.jsonl", [CONVERSATIONS[0], strange, CONVERSATIONS[1]])
    assert infer(str(base), "--input", str(file), "--template", str(template)) == DataError.exit_code
    captured = capsys.readouterr()
    assert [json.loads(line)["index"] for line in captured.out.splitlines()] == [0, 2]
    assert "no system, please" in captured.err and "in.jsonl:2" in captured.err


def test_faults_of_input_and_output_come_before_the_model(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        infer(str(run), "--input", str(tmp_path / "nothing.jsonl"))
    file = write_rows(tmp_path / "in.jsonl", CONVERSATIONS[:1])
    with pytest.raises(ConfigError, match="cannot write"):
        infer(str(run), "--input", str(file), "--result", str(file / "out.jsonl"))
    with pytest.raises(ConfigError, match="no adapter 'poet'"):
        infer(str(run), "--prompt", "x", "--adapter", "poet")


def test_further_adapters_answer_by_name(run: RunDir, root: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poet = make_run(root / "poet", base, seed=5)
    argv = (str(run), "--prompt", "Who are you?", "--adapters", f"poet={poet}")
    assert infer(*argv, "--adapter", "poet") == 0
    spoken = capsys.readouterr().out
    assert spoken == reference(base, poet.final, tokens=8) + "\n" != reference(base, run.final, tokens=8) + "\n"
    assert infer(*argv) == 0
    assert capsys.readouterr().out == reference(base, run.final, tokens=8) + "\n"


def test_settings_of_the_engine_reach_it(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(str(run), "--prompt", "a", "b", "--transformers.max_batch_tokens", "1") == 0
    with pytest.raises(ConfigError, match="max_batch_tokens"):
        infer(str(run), "--prompt", "a", "--transformers.max_batch_tokens", "0")


# ------------------------------------------------------------------------------------------------------------------- chat


class Talk:
    """A chat whose lines come from a list."""

    def __init__(self, model: Any, **values: Any) -> None:
        self.out = ""
        section = GenerationSection(max_new_tokens=8)
        self.chat = Chat(model, section, write=self._take, **values)

    def _take(self, text: str) -> None:
        self.out += text

    def say(self, *lines: str) -> str:
        self.out = ""
        left = list(lines)

        def read(first: bool) -> str:
            if not left:
                raise EOFError
            return left.pop(0)

        self.chat.run(_Lines(read))
        return self.out


@pytest.fixture(scope="module")
def opened(run: RunDir) -> Any:
    with open_model(str(run), sections=sections(), registry=REGISTRY) as model:
        yield model


def test_a_conversation_has_a_memory(opened: Any, run: RunDir, base: Path) -> None:
    talk = Talk(opened)
    assert talk.say("Who are you?") == reference(base, run.final, tokens=8) + "\n"
    first = talk.chat.history[1]["content"]
    talk.say("And now?")
    assert [m["content"] for m in talk.chat.history[:3]] == ["Who are you?", first, "And now?"]
    expected = opened.ask(talk.chat.history[:3], Generation(max_new_tokens=8)).text
    assert talk.chat.history[3]["content"] == expected
    talk.say("/clear", "Who are you?")
    assert len(talk.chat.history) == 2


def test_commands_of_the_chat(opened: Any, tmp_path: Path) -> None:
    talk = Talk(opened)
    assert "/retry" in talk.say("/help")
    talk.say("/system Be kind.", "Hi")
    assert talk.chat.messages()[0] == {"role": "system", "content": "Be kind."}
    before = talk.chat.history[-1]["content"]
    talk.say("/set max_new_tokens 3", "/retry")
    assert talk.chat.history[-1]["content"] != before and len(talk.chat.history) == 2
    assert "there is no 'temprature'" in talk.say("/set temprature 1")
    assert "cannot be 'hot'" in talk.say("/set temperature hot")
    assert "there is no adapter 'poet'" in talk.say("/adapter poet")
    assert "there is no command /quti" in talk.say("/quti")
    file = tmp_path / "talk.jsonl"
    talk.say(f"/save {file}", f"/save {file}")
    assert rows_of(file) == [{"messages": talk.chat.messages()}] * 2
    assert talk.say("/exit", "never asked") == ""
    talk.say("two \\", "lines")
    assert talk.chat.history[-2]["content"] == "two \nlines"


def test_a_full_context_forgets_the_oldest_turn_and_says_so(opened: Any) -> None:
    talk = Talk(opened)
    talk.say("a" * 300, "b" * 100)
    assert len(talk.chat.history) == 4
    out = talk.say("c" * 200)
    assert "oldest turn is forgotten" in out
    assert talk.chat.history[0]["content"] == "b" * 100
    assert "no room for an answer" in talk.say("/clear", "d" * 600)
    assert talk.chat.history == []


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(opened: Any) -> None:
    talk = Talk(opened)
    talk.chat.section = GenerationSection(max_new_tokens=400)

    def interrupt(text: str) -> None:
        talk.out += text
        if len(talk.out) == 3:
            raise KeyboardInterrupt

    talk.chat.write = interrupt
    out = talk.say("Who are you?")
    assert "(stopped)" in out
    assert 0 < len(talk.chat.history[-1]["content"]) < 20
    talk.chat.write = talk._take
    talk.chat.section = GenerationSection(max_new_tokens=4)
    assert talk.say("Still there?")


def test_chat_works_through_a_pipe(run: RunDir, base: Path, capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who are you?\n/exit\n"))
    assert chat_main([str(run), "--max_new_tokens", "8"]) == 0
    assert capsys.readouterr().out == reference(base, run.final, tokens=8) + "\n"


# ------------------------------------------------------------------------------------------------------------------ border


def test_what_decides_is_left_of_the_torch_line(run: RunDir) -> None:
    code = (
        "import sys, swift.cli.infer, swift.cli.chat, swift.cli.export, swift.inference.source as s\n"
        "from swift.config.loader import load\n"
        "from swift.plugins.registry import discover\n"
        "registry = discover()\n"
        f"s.resolve_source({str(run)!r}, sections=load('infer', argv=['x'], registry=registry).sections, registry=registry)\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
