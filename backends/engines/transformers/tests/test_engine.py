"""The transformers engine: answers are those of `model.generate`, however requests are grouped, streamed or adapted."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift.api import (
    ConfigError,
    DataError,
    EngineContext,
    Generation,
    GenerationRequest,
    LoadedModel,
    ModelError,
    Unsupported,
)  # fmt: skip
from swift.testing import byte_tokenizer, contract, tiny_folder
from swift.testing.kinds import PlainCpu
from swift_engine_transformers.decoding import GrowingText, Sample, Stop, cut, held_back
from swift_engine_transformers.engine import TransformersEngine, _Prompt, batches
from swift_engine_transformers.settings import TransformersEngineSettings

TestContract = contract("engine:transformers")

QUESTIONS = ("Hi", "What is 3 plus one?", "A much longer question, so that the others are padded against it. Well?")


def engine_of(
    folder: Path,
    *,
    adapter: Path | None = None,
    adapters: dict[str, Path] | None = None,
    template: str | None = None,
    **settings: object,
) -> TransformersEngine:
    def load() -> LoadedModel:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter))
        return LoadedModel(model, AutoTokenizer.from_pretrained(folder), "sdpa", True)

    context = EngineContext(model_folder=folder, device=PlainCpu(), load=load, adapters=adapters or {}, chat_template=template)
    return TransformersEngine(TransformersEngineSettings(**settings), "transformers", context)


def ask(text: str, adapter: str = "", **generation: object) -> GenerationRequest:
    values = {"max_new_tokens": 24, **generation}
    return GenerationRequest(messages=({"role": "user", "content": text},), generation=Generation(**values), adapter=adapter)


def answers(engine: TransformersEngine, *requests: GenerationRequest) -> list[str]:
    found = dict(engine.generate(requests))
    return [found[i].text for i in range(len(requests))]


def reference(model: torch.nn.Module, folder: Path, text: str, **options: object) -> str:
    """What transformers itself answers, greedily, to one prompt."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": text}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.eval().generate(**inputs, **{"max_new_tokens": 24, "do_sample": False, **options})
    return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def train_adapter(folder: Path, target: Path, seed: int) -> Path:
    """A real LoRA adapter, three steps away from nothing."""
    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), LoraConfig(r=4, target_modules="all-linear")
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-2)
    ids = torch.randint(3, 200, (2, 24))
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: train_adapter(folder, root / name, seed) for seed, name in enumerate(("poet", "clerk"), 1)}


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return engine_of(folder)


# --------------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_padded_batches_answer_as_generate_does_alone(folder: Path, penalty: float) -> None:
    engine = engine_of(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = [reference(model, folder, q, repetition_penalty=penalty) for q in QUESTIONS]
    asked = engine.encode(0, ask(QUESTIONS[0])).ids
    said = engine.tokenizer(expected[0])["input_ids"]
    engine.pad_id = next(i for i in said if i not in asked)  # it would be penalised, if padding counted as text
    assert answers(engine, *(ask(q, repetition_penalty=penalty) for q in QUESTIONS)) == expected


def test_the_models_own_sampling_defaults_do_not_leak_into_a_request(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    plain = answers(engine_of(folder), ask("Hi"))
    model.generation_config.update(do_sample=True, temperature=2.0, repetition_penalty=1.9, no_repeat_ngram_size=1)
    model.generation_config.save_pretrained(folder)
    assert answers(engine_of(folder), ask("Hi")) == plain


def test_a_seed_gives_the_same_answer_alone_and_in_any_batch(engine: TransformersEngine) -> None:
    requests = [ask(q, temperature=1.5, top_p=0.95, seed=7) for q in QUESTIONS]
    together = answers(engine, *requests)
    assert together == [answers(engine, r)[0] for r in requests] == answers(engine, *reversed(requests))[::-1]
    other = replace(requests[0], generation=replace(requests[0].generation, seed=8))
    assert answers(engine, other)[0] != together[0]


def test_without_a_seed_answers_vary_and_torchs_generator_is_left_alone(engine: TransformersEngine) -> None:
    state = torch.get_rng_state()
    assert len(set(answers(engine, *[ask("Hi", temperature=2.0)] * 4))) > 1
    assert torch.equal(torch.get_rng_state(), state)


def test_top_k_of_one_is_greedy(engine: TransformersEngine) -> None:
    assert answers(engine, ask("Hi", temperature=1.0, top_k=1, seed=0)) == answers(engine, ask("Hi"))


def test_samples_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 20_000
    logits = probabilities.log().expand(rows, -1)
    sample = Sample(Generation(temperature=1.0), list(range(rows)))
    share = torch.bincount(sample(None, logits).argmax(-1), minlength=4) / rows
    assert (share - probabilities).abs().max() < 0.012  # 3.4 standard deviations of the widest bin
    nucleus = Sample(Generation(temperature=1.0, top_p=0.8), list(range(rows)))
    assert set(nucleus(None, logits).argmax(-1).tolist()) == {0, 1}


def test_requests_are_grouped_by_length_within_the_token_limit() -> None:
    prompts = [_Prompt(i, [1] * n, Generation(max_new_tokens=10), "") for i, n in enumerate((50, 5, 40, 6))]
    assert [[p.index for p in batch] for batch in batches(prompts, 50)] == [[1, 3], [2], [0]]  # the last one alone, above it
    assert [len(b) for b in batches(prompts, 10_000)] == [4]
    penalised = [replace(p, generation=replace(p.generation, repetition_penalty=1.1)) for p in prompts]
    assert [len(b) for b in batches(penalised, 10_000)] == [1, 1, 1, 1]  # older transformers penalise padding


# ------------------------------------------------------------------------------------------------------------------ ending


def test_text_is_cut_at_the_first_stop_string(engine: TransformersEngine) -> None:
    whole = answers(engine, ask("Hi"))[0]
    first, second = whole[2:5], whole[8:10]
    result = dict(engine.generate([ask("Hi", stop=(second, first))]))[0]
    assert result.text == whole[: min(whole.index(first), whole.index(second))]
    assert result.finish_reason == "stop"
    assert result.completion_tokens < 24


def test_every_end_token_of_the_generation_config_ends_an_answer(folder: Path, tmp_path: Path) -> None:
    whole = engine_of(folder)
    made = whole._call([whole.encode(0, ask("Hi"))], _no_stop(whole)).tolist()[0]
    target = tiny_folder(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    model.generation_config.eos_token_id = [2, made[4]]
    model.generation_config.save_pretrained(target)
    result = dict(engine_of(target).generate([ask("Hi")]))[0]
    assert (result.completion_tokens, result.finish_reason) == (made.index(made[4]) + 1, "stop")
    assert "".join(engine_of(target).stream(ask("Hi"))) == result.text


def _no_stop(engine: TransformersEngine) -> Stop:
    return Stop(engine.tokenizer, (), 0, rows=1)


def test_a_full_context_is_said_and_spoils_no_batch(engine: TransformersEngine) -> None:
    requests = [ask("x" * 600), ask("Hi"), ask("x" * 480, max_new_tokens=400)]
    found = dict(engine.generate(requests))
    assert (found[0].completion_tokens, found[0].finish_reason, found[0].text) == (0, "length", "")
    assert found[1].text == answers(engine, requests[1])[0]
    assert found[2].prompt_tokens + found[2].completion_tokens <= 512
    stream = engine.stream(requests[0])
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value.completion_tokens == 0


# ------------------------------------------------------------------------------------------------------------------ streams


@pytest.mark.parametrize("generation", [{}, {"temperature": 1.5, "seed": 3}, {"repetition_penalty": 1.5}])
def test_pieces_join_to_the_answer_and_end_with_its_result(engine: TransformersEngine, generation: dict[str, object]) -> None:
    request = ask("Tell me", **generation)
    pieces, result = drain(engine.stream(request))
    expected = dict(engine.generate([request]))[0]
    assert "".join(pieces) == expected.text
    assert result == expected


def drain(stream):
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_a_stop_string_over_several_tokens_never_shows(engine: TransformersEngine) -> None:
    whole = answers(engine, ask("Tell me"))[0]
    stop = whole[6:11]  # the tokenizer is byte-level: five tokens
    seen = ""
    for piece in engine.stream(ask("Tell me", stop=(stop,))):
        seen += piece
        assert not any(seen.endswith(stop[:n]) and not whole.startswith(seen) for n in range(1, 6))
    assert seen == whole[: whole.index(stop)]


def test_characters_of_several_bytes_come_whole() -> None:
    tokenizer = byte_tokenizer()
    text = "naïve 你好 🙂 end"
    growing, pieces = GrowingText(tokenizer), []
    for token in tokenizer(text)["input_ids"]:
        before = len(growing.text)
        growing.push([token])
        pieces.append(growing.text[before:])
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_error_while_generating_reaches_the_reader(folder: Path) -> None:
    engine = engine_of(folder)
    calls = []

    def fail(*args: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory, say")

    handle = engine.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory, say"):
        list(engine.stream(ask("Hi")))
    handle.remove()
    assert not [t for t in threading.enumerate() if t.name == "swift-generate"]
    assert "".join(engine.stream(ask("Hi"))) == answers(engine, ask("Hi"))[0]


def test_a_reader_who_leaves_stops_the_model(folder: Path) -> None:
    engine = engine_of(folder)
    engine.stop_ids = frozenset()
    calls = []
    engine.model.register_forward_pre_hook(lambda *_: (calls.append(1), time.sleep(0.01))[1])
    stream = engine.stream(ask("Hi", max_new_tokens=400))
    next(stream)
    stream.close()
    assert len(calls) < 100
    assert not [t for t in threading.enumerate() if t.name == "swift-generate"]


def test_held_back_is_the_longest_beginning_of_a_stop_string() -> None:
    assert held_back("so it is <", ("<stop>",)) == 1
    assert held_back("so it is <sto", ("<stop>", "top")) == 4
    assert held_back("nothing", ("<stop>",)) == 0
    assert cut("a<b>c<d>", ("<d>", "<b>")) == ("a", True)


# ------------------------------------------------------------------------------------------------------------------ adapters


@pytest.mark.parametrize("own", [None, "poet"])
def test_each_adapter_gives_its_own_answer_in_one_batch(folder: Path, adapters: dict[str, Path], own: str | None) -> None:
    served = {name: path for name, path in adapters.items() if name != own}
    engine = engine_of(folder, adapter=adapters[own] if own else None, adapters=served)
    expected = []
    for name in ("", *served, ""):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        path = adapters.get(name or own or "")
        expected.append(reference(PeftModel.from_pretrained(model, str(path)) if path else model, folder, "Who are you?"))
    got = answers(engine, *(ask("Who are you?", adapter=name) for name in ("", *served, "")))
    assert got == expected
    assert len(set(got)) == len(served) + 1
    assert "".join(engine.stream(ask("Who are you?", adapter="clerk"))) == expected[got.index(answers(
        engine, ask("Who are you?", adapter="clerk"))[0])]  # fmt: skip


def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tiny_folder(tmp_path / "other", hidden_size=32)
    adapter = train_adapter(other, tmp_path / "adapter", 1)
    with pytest.raises(ModelError, match="does not fit this model"):
        engine_of(folder, adapters={"stranger": adapter})
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        engine_of(folder, adapters={"nothing": tmp_path})


def test_the_name_of_the_runs_own_adapter_is_taken(folder: Path, adapters: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="default"):
        engine_of(folder, adapter=adapters["poet"], adapters={"default": adapters["clerk"]})


# ------------------------------------------------------------------------------------------------------------------ prompts


def test_a_template_of_the_context_replaces_the_tokenizers(folder: Path) -> None:
    engine = engine_of(folder, template="{{ messages[0].content }}{% if loud %}!{% endif %}")
    quiet = engine.encode(0, ask("Hi"))
    loud = engine.encode(0, replace(ask("Hi"), template_options={"loud": True}))
    assert (engine.tokenizer.decode(quiet.ids), engine.tokenizer.decode(loud.ids)) == ("Hi", "Hi!")


def test_what_cannot_be_asked_gets_one_clear_error(folder: Path) -> None:
    engine = engine_of(folder, template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="roles must alternate"):
        dict(engine.generate([ask("Hi")]))
    engine.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        dict(engine.generate([ask("Hi")]))
    assert (
        dict(engine.generate([GenerationRequest(prompt="Hi", generation=Generation(max_new_tokens=2))]))[0].prompt_tokens == 2
    )


def test_an_answer_that_was_begun_is_gone_on_with(engine: TransformersEngine) -> None:
    messages = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am"})
    ids = engine.encode(0, GenerationRequest(messages=messages)).ids
    assert engine.tokenizer.decode(ids).endswith("assistant\nI am")


# ------------------------------------------------------------------------------------------------------------------ continuous


@pytest.mark.slow
def test_continuous_batching_gives_the_same_greedy_tokens(folder: Path, engine: TransformersEngine) -> None:
    requests = [ask(q, max_new_tokens=8) for q in QUESTIONS]
    expected = dict(engine.generate(requests))
    assert dict(engine_of(folder, continuous_batching=True).generate(requests)) == expected


def test_continuous_batching_refuses_a_seed(folder: Path) -> None:
    with pytest.raises(Unsupported, match="seed"):
        dict(engine_of(folder, continuous_batching=True).generate([ask("Hi", temperature=1.0, seed=1)]))
