"""The exporter's door, and the measure that its proof rests on. Whole exports are tested with `swift export`, in core."""

import math

import torch
from transformers import AutoModelForCausalLM

from swift.testing import byte_tokenizer, contract, tiny_folder
from swift_exporter_merged.proof import MAX_POSITIONS, compare, logits_of, token_rows

TestContract = contract("exporter:merged")


def test_kl_is_that_of_the_formula():
    p, q = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
    by_hand = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    before = torch.tensor([p, p]).log() + 3.0  # a constant added to logits changes no probability
    after = torch.stack([torch.tensor(q).log(), torch.tensor(p).log()])
    found = compare([before], [after])
    assert math.isclose(found["kl_max"], by_hand, rel_tol=1e-6)
    assert math.isclose(found["kl_mean"], by_hand / 2, rel_tol=1e-6)
    assert found["positions"] == 2
    assert found["same_likeliest_token"] == 0.5


def test_equal_models_differ_by_nothing_however_many_positions():
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(0)) * 20
    found = compare([logits], [logits.clone()])
    assert (found["kl_mean"], found["kl_max"], found["logit_max_difference"]) == (0.0, 0.0, 0.0)


def test_one_wrong_position_among_many_shows_in_the_worst():
    before = torch.zeros(150, 10)
    after = before.clone()
    after[140, 3] = 5.0
    found = compare([before], [after])
    assert found["kl_max"] > 1 and found["kl_mean"] < 0.02
    assert found["logit_max_difference"] == 5.0


def test_a_result_with_nan_is_nan_and_not_zero():
    before = torch.zeros(3, 4)
    after = before.clone()
    after[1] = float("nan")
    assert math.isnan(compare([before], [after])["kl_mean"])


def test_prompts_go_through_the_template_and_logits_are_those_of_the_model(tmp_path):
    tokenizer = byte_tokenizer()
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = token_rows(tokenizer, [{"messages": chat}, {"messages": chat[:1]}, {"text": "plain"}, {"text": "x" * 600}])
    assert tokenizer.decode(rows[0]).endswith("Hello<|im_end|>\n")
    assert tokenizer.decode(rows[1]).endswith("assistant\n")
    assert tokenizer.decode(rows[2]) == "plain"
    assert len(rows[3]) == MAX_POSITIONS
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(tmp_path), dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([rows[1]])).logits[0]
    torch.testing.assert_close(logits_of(model, rows[1:2])[0], expected)
