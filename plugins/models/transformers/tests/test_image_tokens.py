"""Tokens of images without torch, against transformers' own processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlavaProcessor, Qwen2_5_VLProcessor, Qwen2VLProcessor, Qwen3VLProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from swift.testing import byte_tokenizer
from swift_model_transformers.image_tokens import counter
from swift_model_transformers.media import FAMILIES

SIZES = [(28, 28), (90, 60), (70, 200), (5, 900), (1000, 40), (33, 57), (2000, 3000), (1, 1), (1, 201)]
QWEN = {"qwen2_vl": (Qwen2VLProcessor, 14), "qwen2_5_vl": (Qwen2_5_VLProcessor, 14), "qwen3_vl": (Qwen3VLProcessor, 16)}
"""Model type -> (processor, pixels of a patch's side)."""


def processor_of(name: str) -> Any:
    """transformers' own, at toy size: a LLaVA image is 4 tokens, one of Qwen-VL 1 to 16."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(
        ["<image>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"], special_tokens=True
    )
    if name == "llava":
        images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        return LlavaProcessor(
            images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
    whole, patch = QWEN[name]
    square = (2 * patch) ** 2
    # Without the part for videos, which needs torchvision.
    images_only = {"get_attributes": classmethod(lambda cls: ["image_processor", "tokenizer"])}
    images = Qwen2VLImageProcessorPil(min_pixels=square, max_pixels=16 * square, patch_size=patch)
    return type(whole.__name__, (whole,), images_only)(images, tokenizer, None)


def wanted(processor: Any, size: tuple[int, int]) -> int:
    try:
        return int(processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"][0])
    except ValueError:  # such a row is rejected
        return 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("older", [False, True])
def test_tokens_are_those_of_transformers_processor(name: str, older: bool, tmp_path: Path) -> None:
    processor = processor_of(name)
    processor.save_pretrained(tmp_path)
    if older:  # as the files of hubs are written
        whole = json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))
        images = whole.pop("image_processor")
        if name in QWEN:
            images |= {"min_pixels": images["size"]["shortest_edge"], "max_pixels": images["size"]["longest_edge"]}
            del images["size"]
        (tmp_path / "processor_config.json").write_text(json.dumps(whole), encoding="utf-8")
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(images), encoding="utf-8")
    count = counter(tmp_path)
    assert count is not None
    assert {size: count(*size) for size in SIZES} == {size: wanted(processor, size) for size in SIZES}


@pytest.mark.parametrize("name", QWEN)
def test_bounds_of_pixels_are_those_of_the_run(name: str, tmp_path: Path) -> None:
    processor, square = processor_of(name), (2 * QWEN[name][1]) ** 2
    processor.save_pretrained(tmp_path)
    least, most = 4 * square, 9 * square
    count = counter(tmp_path, min_pixels=least, max_pixels=most)
    processor.image_processor.size = {"shortest_edge": least, "longest_edge": most}
    assert count is not None and (count(1, 1), count(5000, 5000)) == (4, 9)
    assert {size: count(*size) for size in SIZES} == {size: wanted(processor, size) for size in SIZES}


@pytest.mark.parametrize("text", [None, "[]", "{", "{}", '{"merge_size": 2}', '{"crop_size": "large"}', '{"merge_size": null}'])
def test_a_folder_that_says_nothing_of_images_is_not_guessed(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "preprocessor_config.json").write_text(text, encoding="utf-8")
    assert counter(tmp_path) is None
