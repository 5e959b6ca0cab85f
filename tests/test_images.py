"""Rows with images, from the file to the trained model: against transformers' own processor, loss and positions."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from swift.api import Batch, Device, LoadedModel, LoadRequest, Memory
from swift.api.ops import decoder_and_head, next_token_loss
from swift.cli.main import main
from swift.data.batches import TokenRow, collate, row_of
from swift.data.encode import ChatEncoder
from swift.data.records import load_records
from swift.data.rewrite import Rewrite
from swift.data.tokens import TokenDataset, tokenize
from swift.errors import ConfigError, DataError, ModelError
from swift.plan.plan import Plan
from swift.testing.datasets import samples
from swift.training.parts import with_rates
from swift_dataset_multimodal.swift_plugin import swift_datasets
from swift_model_transformers.loader import TransformersLoader
from swift_objective_causal.objectives import SFT, Pretrain
from swift_objective_causal.settings import PretrainSettings, SFTSettings
from swift_objective_preference.dpo import DPO
from swift_objective_preference.settings import DPOSettings
from swift_tuner_full.full import Full
from swift_tuner_full.settings import FullSettings
from swift_tuner_peft.lora import Lora
from swift_tuner_peft.settings import LoraSettings

sys.path.insert(0, str(Path(__file__).parent))
from tiny_vlm import SPECIAL, draw, qwen_processor, write_llava, write_qwen

ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "<image>what <image>stands?"}, {"role": "assistant", "content": "a red square"},
            {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes"},
        ],
        "images": ["a.png", "b.png"],
    },
    {"messages": [{"role": "user", "content": "hello you"}, {"role": "assistant", "content": "helpful assistant"}]},
    {
        "messages": [
            {"role": "user", "content": "<image>and here?"}, {"role": "assistant", "content": "a blue circle on white"},
        ],
        "images": ["c.png"],
    },
]  # fmt: skip
FAMILIES = {"llava": "", "qwen2_vl": "2", "qwen2_5_vl": "2.5", "qwen3_vl": "3"}
"""Model type -> version of Qwen-VL."""


class Cpu(Device):
    def __init__(self) -> None:
        super().__init__(None, "cpu")

    def setup(self, local_rank: int) -> torch.device:
        return torch.device("cpu")

    def memory(self) -> Memory:
        return Memory(0, 0, 1 << 34)

    def dtypes(self) -> tuple[str, ...]:
        return ("float32",)

    def attention(self) -> tuple[str, ...]:
        return ("sdpa", "eager")

    def collective_backend(self) -> str:
        return "gloo"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model type -> folder."""
    root = tmp_path_factory.mktemp("vlm")
    return {
        name: write_qwen(root / name, version=version) if version else write_llava(root / name)
        for name, version in FAMILIES.items()
    }


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three rows with two images, none and one, of different sizes."""
    for name, width, height, colour in (("a", 60, 90, "red"), ("b", 200, 70, "blue"), ("c", 100, 100, "green")):
        draw(tmp_path / f"{name}.png", width, height, colour)
    return write_rows(tmp_path / "rows.jsonl", ROWS)


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def load(folder: Path) -> LoadedModel:
    return TransformersLoader().load(LoadRequest(folder=folder, device=Cpu()))


def encoder_of(loaded: LoadedModel, **options: Any) -> ChatEncoder:
    return ChatEncoder(loaded.tokenizer, media=loaded.processor, **options)


def tokens_of(file: Path, encoder: ChatEncoder, objective: Any = None, **options: Any) -> TokenDataset:
    objective = objective or SFT(SFTSettings(), "sft")
    return tokenize(
        load_records([str(file)]), objective.encode, encoder, cache_dir=file.parent / "tokens", workers=1, **options
    )


def gradients(model: Any, batches: Sequence[Batch]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = next_token_loss(model, batch.inputs, batch.labels, loss_weight=batch.loss_weight, memory_budget=1 << 26)
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def own_processor(name: str, folder: Path) -> Any:
    """transformers' processor, loaded by transformers."""
    if name == "llava":
        return AutoProcessor.from_pretrained(folder)
    return qwen_processor(FAMILIES[name]).from_pretrained(folder)


def in_parts(row: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The conversation as users of transformers write it."""
    files = iter(row.get("images", ()))
    messages = []
    for message in row["messages"]:
        parts: list[dict[str, Any]] = []
        for number, text in enumerate(message["content"].split("<image>")):
            if number:
                parts.append({"type": "image", "image": Image.open(folder / next(files))})
            if text:
                parts.append({"type": "text", "text": text})
        messages.append({"role": message["role"], "content": parts})
    return messages


# ----------------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_and_pixels_are_those_of_transformers_processor(folders: dict[str, Path], rows: Path, name: str) -> None:
    processor = own_processor(name, folders[name])
    loaded = load(folders[name])
    data = tokens_of(rows, encoder_of(loaded))
    for number, row in enumerate(ROWS):
        expected = processor.apply_chat_template(
            in_parts(row, rows.parent), tokenize=True, return_dict=True, return_tensors="pt"
        )
        batch = collate([row_of(data, number)], "padded")
        assert batch.inputs["input_ids"].tolist() == expected["input_ids"].tolist()
        for key in ("pixel_values", "image_grid_thw"):
            assert (key in batch.inputs) == (key in expected)
            if key in expected:
                assert torch.equal(batch.inputs[key], expected[key])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_plan_counts_the_tokens_that_rows_will_have(
    folders: dict[str, Path], rows: Path, name: str, swift: Callable[..., str]
) -> None:
    def planned(*flags: str) -> dict[str, Any]:
        said = swift("plan", "--model", folders[name], "--dataset", rows, "--device", "cpu", "--json", *flags)
        found: dict[str, Any] = Plan.from_json(said[said.index("{") :]).estimate["data"]
        return found

    encoder = encoder_of(load(folders[name]))
    data = tokens_of(rows, encoder)
    wanted = sum(int(np.isin(data[i][0], list(encoder.placeholder_ids)).sum()) for i in range(len(data)))
    found = planned()
    assert found["image_tokens"] == wanted > 10 and not any("images" in text for text in found["unknown"])
    assert found["longest"] >= data.lengths.max() - 20  # texts are estimated
    pairs = write_rows(rows, [{**row, "rejected_response": "no"} for row in ROWS])
    assert pairs == rows and planned("--objective", "dpo")["image_tokens"] == 2 * wanted
    (rows.parent / "c.png").unlink()
    assert any("the tokens of images in 1 place" in text for text in planned()["unknown"])


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_alone_are_trained_on_and_never_a_placeholder(folders: dict[str, Path], rows: Path, name: str) -> None:
    loaded = load(folders[name])
    ids, weights = tokens_of(rows, encoder_of(loaded))[0]
    said = loaded.tokenizer.decode([i for i, w in zip(ids.tolist(), weights.tolist(), strict=True) if w])
    assert said == "a red square<|im_end|>yes<|im_end|>"
    everything = SFT(SFTSettings(train_on="all"), "sft")
    ids, weights = tokens_of(rows, encoder_of(loaded), everything, key_parts="all")[0]
    is_image = torch.isin(torch.tensor(ids.tolist()), torch.tensor(sorted(loaded.processor.placeholder_ids))).numpy()
    assert is_image.sum() > 4 and not weights[is_image].any() and weights[~is_image].all()


def test_processors_travel_to_helpers(folders: dict[str, Path], rows: Path) -> None:
    encoder = encoder_of(load(folders["qwen2_5_vl"]))
    copy = pickle.loads(pickle.dumps(encoder))
    record = load_records([str(rows)])[0]
    assert copy.chat(record) == encoder.chat(record) and copy.digest() == encoder.digest()


def test_max_pixels_makes_images_smaller(folders: dict[str, Path], rows: Path) -> None:
    loader, folder = TransformersLoader(), folders["qwen2_5_vl"]
    tokenizer = loader.load_tokenizer(folder)
    lengths = []
    for most in (None, 4 * 28 * 28):
        media = loader.load_processor(folder, tokenizer, max_pixels=most)
        data = tokens_of(rows, ChatEncoder(tokenizer, media=media))
        row = row_of(data, 2)
        batch = collate([row], "packed")
        lengths.append(int((batch.inputs["input_ids"] == SPECIAL.index("<|image_pad|>")).sum()))
        assert lengths[-1] == int(batch.inputs["image_grid_thw"].prod()) // 4
    assert lengths == [16, 4]
    with pytest.raises(ModelError, match="above max_pixels"):
        loader.load_processor(folder, tokenizer, max_pixels=100)
    with pytest.raises(ModelError, match="one size"):
        loader.load_processor(folders["llava"], tokenizer, max_pixels=100)


def test_images_lie_upright(folders: dict[str, Path], rows: Path) -> None:
    """A photo that its EXIF data turn takes the tokens, and has the pixels, of the turned image."""
    turned = Image.open(rows.parent / "b.png").convert("RGB")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(rows.parent / "photo.jpg", exif=exif)
    row = {**ROWS[2], "images": ["photo.jpg"]}
    data = tokens_of(write_rows(rows.with_name("p.jsonl"), [row]), encoder_of(load(folders["qwen2_5_vl"])))
    batch = collate([row_of(data, 0)], "packed")
    _, height, width = batch.inputs["image_grid_thw"][0].tolist()
    assert height > width


def test_rows_that_do_not_fit_the_model_are_refused(folders: dict[str, Path], rows: Path) -> None:
    loaded = load(folders["llava"])
    encoder = encoder_of(loaded)
    ask = [{"role": "user", "content": "<video>?"}, {"role": "assistant", "content": "no"}]
    with pytest.raises(DataError, match="takes images only"):
        encoder.chat({"messages": ask, "videos": ["a.mp4"]})
    tag = [{"role": "user", "content": "what does <image> mean?"}, {"role": "assistant", "content": "no"}]
    with pytest.raises(DataError, match="0 media, but .* 1 placeholders"):
        encoder.chat({"messages": tag})
    with pytest.raises(DataError, match="stands for media"):
        encoder.text("a <image> b")
    deaf = encoder_of(loaded)
    deaf.template.given = "{% for m in messages %}{{ m.role }}: {{ m.content[-1].text }}\n{% endfor %}"
    with pytest.raises(DataError, match="2 media, but .* 0 placeholders"):
        deaf.chat(load_records([str(rows)])[0])
    with pytest.raises(DataError, match="pre-training is on text"):
        Pretrain(PretrainSettings(), "pt").encode(load_records([str(rows)])[0], encoder)
    with pytest.raises(DataError, match="trained on text only"):
        ChatEncoder(loaded.tokenizer).chat(load_records([str(rows)])[0])


def test_a_template_of_plain_text_gets_placeholders_in_the_text(folders: dict[str, Path], rows: Path) -> None:
    encoder = encoder_of(load(folders["llava"]))
    encoder.template.given = "{% for m in messages %}{{ m.role + ': ' + m.content }}<|im_end|>{% endfor %}"
    ids = encoder.chat(load_records([str(rows)])[0])["input_ids"]
    assert ids.count(SPECIAL.index("<image>")) == 8


def test_a_template_that_reads_parts_alone_and_puts_images_first(folders: dict[str, Path], rows: Path) -> None:
    """As LLaVA 1.5 has it: contents of plain text would come out empty."""
    template = (
        "{% for m in messages %}{{ m.role.upper() + ': ' }}"
        "{% for part in m.content | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
        "{% for part in m.content | selectattr('type', 'equalto', 'text') %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ part.text + ' ' }}{% endgeneration %}{% else %}{{ part.text + ' ' }}{% endif %}{% endfor %}"
        "{% endfor %}"
    )
    processor = own_processor("llava", folders["llava"])
    expected = processor.apply_chat_template(
        in_parts(ROWS[0], rows.parent), chat_template=template, tokenize=True, return_dict=True
    )
    encoder = encoder_of(load(folders["llava"]))
    encoder.template.given = template
    example = encoder.chat(load_records([str(rows)])[0])
    assert [example["input_ids"]] == list(expected["input_ids"])
    said = [i for i, w in zip(example["input_ids"], example["loss_weight"], strict=True) if w]
    assert encoder.tokenizer.decode(said).split() == ["red", "square", "yes"]  # "a" is one token with the space before it


# ---------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_is_padded_is_each_row_alone(folders: dict[str, Path], rows: Path, name: str) -> None:
    loaded = load(folders[name])
    assert loaded.keeps_documents_apart
    assert decoder_and_head(loaded.model) is not None
    data = tokens_of(rows, encoder_of(loaded))
    each: list[TokenRow] = [row_of(data, number) for number in range(3)]
    alone, grads = gradients(loaded.model, [collate([row], "padded") for row in each])
    for batch in (collate(each, "padded"), collate(each, "packed")):
        total, found = gradients(loaded.model, [batch])
        assert total == pytest.approx(alone, rel=1e-6)
        assert found.keys() == grads.keys()
        for parameter, grad in grads.items():
            torch.testing.assert_close(found[parameter], grad, rtol=1e-4, atol=1e-5 * max(1.0, float(grad.abs().max())))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_that_of_transformers(folders: dict[str, Path], rows: Path, name: str) -> None:
    loaded = load(folders[name])
    processor = own_processor(name, folders[name])
    data = tokens_of(rows, encoder_of(loaded))
    ours, _ = gradients(loaded.model, [collate([row_of(data, number) for number in range(3)], "packed")])
    model = AutoModelForImageTextToText.from_pretrained(folders[name])
    theirs = 0.0
    for number, row in enumerate(ROWS):
        inputs = processor.apply_chat_template(in_parts(row, rows.parent), tokenize=True, return_dict=True, return_tensors="pt")
        weights = torch.tensor(data[number][1].copy())
        labels = inputs["input_ids"].masked_fill(weights[None] == 0, -100)
        with torch.no_grad():
            theirs += float(model(**inputs, labels=labels).loss) * int((labels[:, 1:] != -100).sum())
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_positions_are_the_models_own_and_begin_anew_with_each_document(folders: dict[str, Path], rows: Path) -> None:
    loaded = load(folders["qwen2_5_vl"])
    data = tokens_of(rows, encoder_of(loaded))
    each = [row_of(data, number) for number in range(3)]
    positions = collate(each, "packed").inputs["position_ids"]
    assert positions.shape == (4, 1, sum(len(row.ids) for row in each))
    start = 0
    for row in each:
        alone = collate([row], "packed").inputs
        ids = alone["input_ids"]
        expected, _ = loaded.model.model.get_rope_index(
            ids, (ids == SPECIAL.index("<|image_pad|>")).int(), image_grid_thw=alone.get("image_grid_thw")
        )
        part = positions[:, :, start : start + ids.shape[1]]
        assert torch.equal(part[1:], expected) and part[0, 0].tolist() == list(range(ids.shape[1]))
        start += ids.shape[1]


def test_both_answers_of_a_pair_see_the_image(folders: dict[str, Path], rows: Path) -> None:
    loaded = load(folders["qwen2_5_vl"])
    pair = {**ROWS[2], "rejected": "a red square"}
    data = tokens_of(write_rows(rows.with_name("pairs.jsonl"), [pair, pair]), encoder_of(loaded), DPO(DPOSettings(), "dpo"))
    batch = collate([row_of(data, 0)], "packed")
    grid = batch.inputs["image_grid_thw"]
    assert len(grid) == 2 and torch.equal(grid[0], grid[1])
    packed, _ = gradients(loaded.model, [batch])
    padded, _ = gradients(loaded.model, [collate([row_of(data, 0)], "padded")])
    assert packed == pytest.approx(padded, rel=1e-5)


def test_a_changed_or_lost_file_is_named(folders: dict[str, Path], rows: Path) -> None:
    data = tokens_of(rows, encoder_of(load(folders["qwen2_5_vl"])))
    draw(rows.parent / "b.png", 28, 28)
    with pytest.raises(DataError, match=r"rows.jsonl:1: its media take 7 tokens now"):
        collate([row_of(data, 0)], "packed")
    (rows.parent / "c.png").unlink()
    with pytest.raises(DataError, match=r"rows.jsonl:3: .*c.png: no such image"):
        collate([row_of(data, 2)], "packed")


def test_pixels_are_read_anew_and_a_replaced_file_is_tokenized_again(folders: dict[str, Path], rows: Path) -> None:
    encoder = encoder_of(load(folders["qwen2_5_vl"]))

    def ids_and_pixels() -> tuple[list[int], torch.Tensor, bool]:
        data = tokens_of(rows, encoder)
        batch = collate([row_of(data, 2)], "padded")
        return data[2][0].tolist(), batch.inputs["pixel_values"], data.from_cache

    ids, pixels, from_cache = ids_and_pixels()
    assert not from_cache
    again = ids_and_pixels()
    assert again[0] == ids and torch.equal(again[1], pixels) and again[2]
    draw(rows.parent / "c.png", 100, 100, "blue")  # same name and size
    painted = ids_and_pixels()
    assert painted[0] == ids and painted[1].shape == pixels.shape and not torch.equal(painted[1], pixels)
    draw(rows.parent / "c.png", 28, 28)
    smaller = ids_and_pixels()
    placeholder = SPECIAL.index("<|image_pad|>")
    assert smaller[0].count(placeholder) == 1 < ids.count(placeholder) and len(smaller[1]) == 4 and not smaller[2]


def test_rows_with_images_are_dropped_not_cut(folders: dict[str, Path], rows: Path) -> None:
    encoder = encoder_of(load(folders["qwen2_5_vl"]))
    data = tokens_of(rows, encoder, max_length=30, overlong="truncate_right")
    assert len(data) == 1 and len(data.rejects) == 2


# --------------------------------------------------------------------------------------------------------------- commands


@pytest.fixture
def swift(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that succeeds; what it printed."""

    def run(*words: object) -> str:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out + said.err

    return run


@pytest.mark.parametrize("name", ("llava", "qwen2_5_vl"))
def test_lora_by_command_with_resume_merge_and_answers(
    folders: dict[str, Path], rows: Path, tmp_path: Path, swift: Callable[..., str], name: str
) -> None:
    run, half = tmp_path / "run", tmp_path / "half"
    swift(
        "sft", "--model", folders[name], "--dataset", rows, "--max_steps", 4, "--batch_size", 2, "--save_steps", 2,
        "--gradient_accumulation_steps", 1, "--batching", "packed", "--packing_length", 70, "-o", run, "--report", "false",
    )  # fmt: skip
    trained = load_file(run / "final" / "adapter_model.safetensors")
    assert trained and all("language_model" in key for key in trained)

    shutil.copytree(run, half)
    shutil.rmtree(half / "final")
    shutil.rmtree(half / "checkpoints" / "step-000004")
    swift("sft", "--resume", half)
    again = load_file(half / "final" / "adapter_model.safetensors")
    assert all(torch.equal(again[key], value) for key, value in trained.items())

    swift("export", run, "-o", tmp_path / "merged")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    processor = own_processor(name, tmp_path / "merged")
    asked = {"messages": ROWS[0]["messages"][:1], "images": ROWS[0]["images"]}
    inputs = processor.apply_chat_template(
        in_parts(asked, rows.parent), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    made = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = processor.tokenizer.decode(made, skip_special_tokens=True)
    question = write_rows(rows.with_name("ask.jsonl"), [{**asked, "messages": ROWS[0]["messages"][:2]}])
    for source in (run, tmp_path / "merged"):
        line = swift("infer", source, "--input", question, "--max_new_tokens", 5).splitlines()[-1]
        assert json.loads(line)["response"] == answer


@pytest.mark.parametrize("name", ("llava", "qwen2_5_vl"))
def test_frozen_parts_stay_and_opened_ones_move(
    folders: dict[str, Path], rows: Path, tmp_path: Path, swift: Callable[..., str], name: str
) -> None:
    before = AutoModelForImageTextToText.from_pretrained(folders[name]).state_dict()

    def moved(*flags: object) -> set[str]:
        run = tmp_path / str(len(flags))
        swift(
            "sft", "--model", folders[name], "--dataset", rows, "--tuner", "full", "--learning_rate", 0.01, "--max_steps", 1,
            "-o", run, "--report", "false", *flags,
        )  # fmt: skip
        after = AutoModelForImageTextToText.from_pretrained(run / "final").state_dict()
        return {_part(key) for key, value in after.items() if not torch.equal(value, before[key])}

    assert moved() == {"llm"}
    assert moved("--freeze_aligner", "false") == {"llm", "aligner"}
    assert moved("--freeze_vit", "false", "--freeze_llm", "true") == {"vit"}


@pytest.mark.parametrize("name", ("llava", "qwen2_5_vl", "qwen3_vl"))
def test_parts_learn_at_rates_of_their_own_as_in_hand_made_groups(folders: dict[str, Path], rows: Path, name: str) -> None:
    rates = {"llm": 1e-3, "vit": 1e-4, "aligner": 3e-4}
    section = {"learning_rate": rates["llm"], "vit_lr": rates["vit"], "aligner_lr": rates["aligner"]}
    loaded, other = load(folders[name]), load(folders[name])
    batch = collate([row_of(tokens_of(rows, encoder_of(loaded)), 0)], "padded")
    tuner = Full(FullSettings(), "full")
    groups = tuner.parameter_groups(loaded.model, learning_rate=rates["llm"], weight_decay=0.1)
    ours = torch.optim.AdamW(with_rates(groups, loaded.model, loaded.parts, section))
    named = list(other.model.named_parameters())
    theirs = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if _part(n) == part and (p.ndim >= 2) is matrix], "lr": rate,
             "weight_decay": 0.1 if matrix else 0.0}
            for part, rate in rates.items() for matrix in (True, False)
        ]
    )  # fmt: skip
    for model, optimizer in ((loaded.model, ours), (other.model, theirs)):
        for _ in range(3):
            gradients(model, [batch])
            optimizer.step()
    expected = dict(named)
    for key, value in loaded.model.named_parameters():
        assert torch.equal(value, expected[key]), key
    assert sorted({group["lr"] for group in ours.param_groups}) == pytest.approx(sorted(rates.values()))
    with pytest.raises(ConfigError, match="vit_lr: the model has no such part"):
        with_rates(groups, loaded.model, {}, section)


def test_rates_of_parts_keep_the_factors_of_lora_plus(folders: dict[str, Path]) -> None:
    loaded = load(folders["qwen2_5_vl"])
    tuner = Lora(LoraSettings(lora_plus_lr_ratio=16.0), "lora")
    model = tuner.apply(loaded.model, seed=0)
    groups = tuner.parameter_groups(model, learning_rate=1e-4, weight_decay=0.0)
    rates: dict[tuple[str, bool], set[float]] = {}
    names = {id(p): n for n, p in model.named_parameters()}
    for group in with_rates(groups, model, loaded.parts, {"learning_rate": 1e-4, "vit_lr": 1e-5}):
        for parameter in group["params"]:
            key = names[id(parameter)]
            rates.setdefault((_part(key), "lora_B" in key), set()).add(group["lr"])
    assert {key: [pytest.approx(rate) for rate in found] for key, found in rates.items()} == {
        ("vit", False): [1e-5], ("vit", True): [16e-5], ("aligner", False): [1e-4], ("aligner", True): [16e-4],
        ("llm", False): [1e-4], ("llm", True): [16e-4],
    }  # fmt: skip


def test_rates_of_parts_by_command(folders: dict[str, Path], rows: Path, tmp_path: Path, swift: Callable[..., str]) -> None:
    before = AutoModelForImageTextToText.from_pretrained(folders["qwen2_5_vl"]).state_dict()
    rates = {"llm": 1e-2, "vit": 1e-3, "aligner": 4e-3}
    swift(
        "sft", "--model", folders["qwen2_5_vl"], "--dataset", rows, "--tuner", "full", "--learning_rate", rates["llm"],
        "--vit_lr", rates["vit"], "--aligner_lr", rates["aligner"], "--freeze_vit", "false", "--freeze_aligner", "false",
        "--weight_decay", 0, "--lr_scheduler", "constant", "--warmup_ratio", 0, "--max_steps", 1, "-o", tmp_path / "run",
        "--report", "false",
    )  # fmt: skip
    after = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "final").state_dict()
    moved: dict[str, float] = {}
    for key, value in after.items():
        moved[_part(key)] = max(moved.get(_part(key), 0.0), float((value - before[key]).abs().max()))
    assert moved == pytest.approx(rates, rel=1e-2)  # Adam's first step is the rate, whatever the gradient


def _part(name: str) -> str:
    if "merger" in name or "multi_modal_projector" in name:
        return "aligner"
    return "vit" if "visual" in name or "vision_tower" in name else "llm"


def test_streamed_checkpointed_and_by_task(
    folders: dict[str, Path], rows: Path, tmp_path: Path, swift: Callable[..., str]
) -> None:
    common = ["sft", "--model", folders["qwen2_5_vl"], "--max_steps", 2, "--report", "false"]
    swift(*common, "--dataset", rows, "--streaming", "true", "--batching", "packed", "-o", tmp_path / "streamed")
    swift(*common, "--dataset", rows, "--gradient_checkpointing", "true", "-o", tmp_path / "checkpointed")

    # A registered dataset of questions about images: its recorded sample row, as its entry says to read it.
    spec = next(spec for spec in swift_datasets() if spec.name == "chartqa")
    draw(rows.parent / "chart.png", 60, 60)
    sample = {**samples(spec.sample)["chartqa"][0], "image": "chart.png"}
    rewrite = Rewrite.of(spec)
    assert rewrite is not None
    file = write_rows(tmp_path / "chartqa.jsonl", [dict(row) for row in rewrite(sample)])
    swift(*common, "--dataset", file, "--task", "vqa", "-o", tmp_path / "vqa")


def test_the_plan_knows_the_parts(
    folders: dict[str, Path], rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_PIXELS", "3136")
    assert main(["plan", "--model", str(folders["qwen2_5_vl"]), "--dataset", str(rows), "--json"]) == 0
    plan = Plan.from_json(capsys.readouterr().out)
    assert plan.config["template"]["max_pixels"] == 3136
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folders["qwen2_5_vl"]))
    language = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "language_model" in n]
    counted = plan.estimate["model"]["trained_parameters"]
    assert counted == sum(8 * (m.in_features + m.out_features) for m in language)


def test_other_families_are_refused_with_those_that_work(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "idefics3", "architectures": ["Idefics3ForConditionalGeneration"], "vision_config": {"a": 1}})
    )
    with pytest.raises(ModelError, match="LLaVA .* Qwen2.5-VL"):
        load(tmp_path)
