"""Combinations are judged before anything is loaded: every reason at once, both parties named, the smallest way out found."""

from __future__ import annotations

import pytest

from swift.api import (
    Clash,
    DeviceSpec,
    EngineSpec,
    ModelSpec,
    Need,
    ParallelSpec,
    QuantizerSpec,
    RuleSpec,
    TunerSpec,
)  # fmt: skip
from swift.plugins.conditions import Selector, parse, parse_selector
from swift.plugins.info import Entry
from swift.plugins.registry import Registry
from swift.plugins.resolver import check, suggest


def entry(spec, dist: str, version: str = "0.1") -> Entry:
    return Entry(spec, dist, f"acme-swift-{dist}", version)


NPU = entry(
    DeviceSpec(
        name="npu",
        impl="a:b",
        facts={"device.collectives": ("hccl",)},
        clashes=(
            Clash(("device:npu", "quantizer:gptq"), "there is no GPTQ kernel for Ascend", fix="--quantizer none", code="SW101"),
            Clash(("device:npu", "quantizer:bnb"), "bitsandbytes does not run on Ascend", code="SW102"),
            Clash(("device:npu", "engine:sglang"), "SGLang has no Ascend backend", level="unsupported", code="SW103"),
        ),
    ),
    "npu",
)
MPS = entry(DeviceSpec(name="mps", impl="a:b"), "mps")
CUDA = entry(DeviceSpec(name="cuda", impl="a:b", facts={"device.collectives": ("nccl", "gloo")}), "cuda")
GPTQ = entry(QuantizerSpec(name="gptq", impl="a:b", bits=(4,)), "gptq")
BNB = entry(QuantizerSpec(name="bnb", impl="a:b", bits=(4,), trainable=True), "bnb")
LORA = entry(TunerSpec(name="lora", impl="a:b"), "peft")
QLORA = entry(
    TunerSpec(
        name="qlora",
        impl="a:b",
        needs=(
            Need("quant.bits == 4", "QLoRA trains LoRA over a 4-bit base", fix="add --quantizer bnb"),
            Need("quant.trainable", "gradients must flow through the base", code="SW110"),
        ),
    ),
    "peft",
)
DEEPSPEED = entry(
    ParallelSpec(name="deepspeed", impl="a:b", needs=(Need("device.collectives", "DeepSpeed needs a collective backend"),)),
    "deepspeed",
)
DDP = entry(ParallelSpec(name="ddp", impl="a:b", needs=(Need("device.collectives", "ranks must talk"),)), "torch")
SINGLE = entry(ParallelSpec(name="single", impl="a:b", needs=(Need("parallel.world_size == 1", "it is one process"),)), "torch")
SGLANG = entry(EngineSpec(name="sglang", impl="a:b"), "sglang")
VLLM = entry(EngineSpec(name="vllm", impl="a:b"), "vllm")
EVERYTHING = Registry(entries=[NPU, MPS, CUDA, GPTQ, BNB, LORA, QLORA, DEEPSPEED, DDP, SINGLE, SGLANG, VLLM])
ONE = {"parallel.world_size": 1}


def slots(*entries: Entry) -> dict[str, Entry]:
    return {e.kind: e for e in entries}


def judged(*entries: Entry, facts=ONE, **options):
    plan = slots(*entries)
    resolution = check(plan, facts, **options)
    return resolution, suggest(EVERYTHING, plan, facts, resolution.problems, **options)


def test_a_legal_plan_has_no_problems_and_no_suggestions():
    resolution, ways = judged(CUDA, LORA, BNB, DDP)
    assert resolution.problems == () and ways == []
    assert resolution.facts["quant.bits"] == 4 and resolution.facts["device.collectives"] == ("nccl", "gloo")


def test_gptq_on_npu_names_both_parties_and_where_they_come_from():
    resolution, ways = judged(NPU, LORA, GPTQ, DDP)
    (problem,) = resolution.problems
    assert problem.code == "SW101" and problem.parties == ("device:npu", "quantizer:gptq") and problem.fix == "--quantizer none"
    assert problem.message == (
        "device:npu (acme-swift-npu 0.1) cannot be combined with quantizer:gptq (acme-swift-gptq 0.1):"
        " there is no GPTQ kernel for Ascend"
    )
    assert ways == ["legal with: --quantizer none"]


def test_deepspeed_on_mps_is_refused_by_its_need():
    resolution, ways = judged(MPS, LORA, DEEPSPEED)
    (problem,) = resolution.problems
    assert problem.parties == ("parallel:deepspeed", "device:mps") and "device.collectives is not set" in problem.message
    assert "acme-swift-deepspeed 0.1" in problem.message and "acme-swift-mps 0.1" in problem.message
    assert ways == ["legal with: --parallel single"]


def test_qlora_without_a_trainable_quantizer():
    resolution, ways = judged(CUDA, QLORA, GPTQ, DDP)
    assert [p.code for p in resolution.problems] == ["SW110"]  # four bits are there, gradients are not
    assert ways == ["legal with: --quantizer bnb", "legal with: --tuner lora"]
    resolution, ways = judged(CUDA, QLORA, DDP)
    assert len(resolution.problems) == 2 and resolution.problems[0].fix == "add --quantizer bnb"
    assert ways == ["legal with: --quantizer bnb", "legal with: --tuner lora"]


def test_everything_wrong_is_said_at_once_and_the_way_out_changes_three_slots():
    resolution, ways = judged(NPU, QLORA, BNB, DDP, SGLANG)
    assert [p.code for p in resolution.problems] == ["SW102", "SW103"]
    assert [p.level for p in resolution.problems] == ["impossible", "unsupported"]
    assert ways == ["legal with: --quantizer none --tuner lora --engine vllm"]


def test_no_suggestion_where_three_changes_do_not_help():
    registry = Registry(entries=[MPS, LORA, DEEPSPEED, DDP])
    plan = slots(MPS, LORA, DEEPSPEED)
    assert suggest(registry, plan, ONE, check(plan, ONE).problems) == []


def test_a_change_takes_the_facts_of_its_settings_along_but_not_the_number_of_processes():
    stage3 = entry(TunerSpec(name="x", impl="a:b", clashes=(Clash(("tuner:x", "parallel.stage == 3"), "w"),)), "x")
    plan = slots(CUDA, stage3, DEEPSPEED)
    facts = {"parallel.stage": 3, "parallel.world_size": 2}
    resolution = check(plan, facts)
    assert resolution.problems[0].parties == ("tuner:x", "parallel:deepspeed")
    assert "where parallel.stage=3" in resolution.problems[0].message
    assert suggest(EVERYTHING, plan, facts, resolution.problems, changeable=("parallel",)) == ["legal with: --parallel ddp"]


def test_allow_lowers_an_unsupported_code_and_no_impossible_one():
    resolution, _ = judged(NPU, LORA, GPTQ, DDP, SGLANG, allow=("SW101", "SW103"))
    assert {p.code: p.level for p in resolution.problems} == {"SW101": "impossible", "SW103": "unverified"}
    assert [p.code for p in resolution.refused] == ["SW101"]


def test_a_third_party_rules_about_two_others():
    rule = entry(
        RuleSpec(name="bug", clashes=(Clash(("engine:vllm", "tuner:lora"), "wrong answers before vllm 9", code="ACME1"),)),
        "rules",
    )
    assert judged(CUDA, LORA, VLLM)[0].problems == ()
    (problem,) = judged(CUDA, LORA, VLLM, rules=[rule])[0].problems
    assert problem.parties == ("engine:vllm", "tuner:lora") and "(a rule of acme-swift-rules 0.1)" in problem.message
    assert check({**slots(CUDA, LORA, VLLM), "rule.0": rule}, ONE).problems == (problem,)
    registry = Registry(entries=[*EVERYTHING.entries(), rule])
    assert "legal with: --engine sglang" in suggest(registry, slots(CUDA, LORA, VLLM), ONE, [problem])


def test_the_same_clash_from_two_slots_is_said_once():
    plan = {"tracker.0": NPU, "device": NPU, "quantizer": GPTQ}
    assert len(check(plan, ONE).problems) == 1


def test_what_is_not_known_yet_warns_and_does_not_refuse():
    resolution, _ = judged(MPS, LORA, SINGLE, facts={"parallel.world_size": 1, "device.collectives": None})
    assert resolution.problems == ()
    need = entry(ParallelSpec(name="big", impl="a:b", needs=(Need("device.count >= 2", "it splits"),)), "big")
    (problem,) = check(slots(CUDA, need), {"device.count": None}).problems
    assert problem.level == "unverified" and "not known yet" in problem.message


def test_the_configuration_wins_over_what_a_component_says():
    eight = check(slots(CUDA, QLORA, BNB), {"quant.bits": 8})
    assert "quant.bits=8 with quantizer:bnb" in eight.problems[0].message


def test_facts_come_from_the_typed_fields_of_specs():
    model = entry(ModelSpec(name="m", loader="l", architecture="Qwen3ForCausalLM"), "qwen")
    facts = check(slots(model, LORA, BNB, VLLM), {}).facts
    assert facts["model.architecture"] == "Qwen3ForCausalLM" and facts["model.modality"] == ("text",)
    assert facts["quant.method"] == "bnb" and facts["quant.trainable"] is True and facts["tuner.artifact"] == "adapter"


FACTS = {
    "a.yes": True,
    "a.no": False,
    "a.zero": 0,
    "a.list": ("x", "y"),
    "a.empty": (),
    "a.word": "hello",
    "a.four": 4,
    "a.unknown": None,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("a.yes", True), ("a.no", False), ("a.zero", False), ("a.list", True), ("a.empty", False), ("a.absent", False),
        ("not a.no", True), ("not a.absent", True), ("not a.yes", False),
        ("a.four == 4", True), ("a.four==5", False), ("a.word == hello", True), ("a.word == 'hello'", True),
        ("a.yes == true", True),
        ("a.absent == 4", False), ("a.absent != 4", True), ("a.four != 4", False), ("a.absent == none", True),
        ("a.four >= 4", True), ("a.four > 4", False), ("a.four <= 4.5", True), ("a.four < 4", False), ("a.word > 3", False),
        ("a.absent >= 0", False),
        ("a.list contains x", True), ("a.list contains z", False), ("a.word contains hell", True),
        ("a.absent contains x", False),
        ("a.four in 4, 8", True), ("a.four in [2, 8]", False), ("a.word in hello, bye", True),
        ("a.unknown", None), ("not a.unknown", None), ("a.unknown >= 2", None),
    ],
)  # fmt: skip
def test_conditions(text, holds):
    assert parse(text).holds(FACTS) is holds


@pytest.mark.parametrize("text", ["", "word", "a.b = 3", "a.b ===", "not a.b == 3", "a.b ==", "A.b", "a.b and c.d"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ValueError, match="is not a condition"):
        parse(text)


def test_selectors():
    assert parse_selector("quantizer:*") == Selector("quantizer", "*") and parse_selector("quantizer:*").matches(
        "quantizer", "bnb"
    )
    assert not parse_selector("device:npu").matches("device", "cuda")
    assert parse_selector("quant.bits == 4") == parse("quant.bits == 4")
