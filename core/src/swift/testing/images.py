"""The claim of a loader that its plugin counts what images become: against its own processor, in a toy folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from transformers import AutoConfig

from swift.errors import DataError, ModelError
from swift.plugins.loading import load_object
from swift.testing.descriptor import heavy_imports
from swift.testing.kinds import ModelContract
from swift.testing.tiny import byte_tokenizer, tiny_folder

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SIZES = ((28, 28), (90, 60), (70, 200), (5, 900), (33, 57), (600, 800), (2000, 3000), (1, 1), (1, 201))
"""(height, width) in pixels; the last is longer than some processors take."""
BOUNDS: tuple[dict[str, int], ...] = ({}, {"min_pixels": 20_000, "max_pixels": 60_000})


def tiny_image_folder(folder: Path) -> Path:
    """Config, tokenizer and processor of a toy Qwen2-VL, as hubs have them; no weights. An image is 1 to 16 tokens."""
    tokenizer, square = byte_tokenizer(), 28**2
    tokenizer.add_tokens(list(VISION_TOKENS), special_tokens=True)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = AutoConfig.for_model(
        "qwen2_vl", architectures=["Qwen2VLForConditionalGeneration"], image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
        text_config={**sizes, "num_key_value_heads": 2, "vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 14},
    )  # fmt: skip
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor", "patch_size": 14,
        "merge_size": 2, "temporal_patch_size": 2, "min_pixels": square, "max_pixels": 16 * square,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


class CountsImages(ModelContract):
    """Claim `image_tokens`.

    `image_folder` writes the files of one of the loader's models into the folder that it is given, and returns it; weights are
    not needed: `contract("model:mine", image_folder=write)`.
    """

    image_folder: ClassVar[Callable[[Path], Path]] = tiny_image_folder

    @pytest.fixture
    def seen(self, loader: Any, tmp_path: Path) -> Path:
        """A folder of which the loader makes a processor."""
        write = type(self).image_folder
        folder = write(tmp_path / "seen")
        try:
            why = "" if self.processor(loader, folder) is not None else "load_processor returns None"
        except ModelError as error:
            why = error.message
        if why:
            pytest.fail(
                f"image_tokens has nothing to be compared with: of the folder of {write.__name__}, {why}; name a function that "
                f'writes a folder of a model of yours: contract("{self.component}", image_folder=write)'
            )
        return folder

    def processor(self, loader: Any, folder: Path, **bounds: int) -> Any:
        return loader.load_processor(folder, loader.load_tokenizer(folder), **bounds)

    def counter(self, spec: Any, folder: Path, **bounds: int) -> Any:
        return load_object(spec.image_tokens)(folder, **{"min_pixels": None, "max_pixels": None, **bounds})

    def test_image_tokens_need_no_torch(self, spec: Any, seen: Path) -> None:
        module, function = spec.image_tokens.split(":")
        call = f"{module}.{function}(__import__('pathlib').Path({str(seen)!r}), min_pixels=None, max_pixels=None)"
        heavy, fault = heavy_imports(module, f"count = {call}; count(60, 90)")
        assert not fault, f"{spec.image_tokens} fails in a process of its own: {fault}"
        assert not heavy, f"image_tokens imports {heavy}; `swift plan` calls it"

    def test_image_tokens_are_those_of_the_processor(self, spec: Any, loader: Any, seen: Path) -> None:
        tokenizer = loader.load_tokenizer(seen)
        for bounds in BOUNDS:
            try:
                processor = self.processor(loader, seen, **bounds)
            except ModelError:  # images of one size: a run with bounds is refused
                continue
            count, given = self.counter(spec, seen, **bounds), f" with {bounds}" if bounds else ""
            assert count is not None, f"image_tokens gives None{given} for a folder that the loader makes a processor of"
            for height, width in SIZES:
                try:
                    text = processor.text("images", (height, width))
                    wanted = len(tokenizer(text, add_special_tokens=False).input_ids)
                except DataError:
                    wanted = 0
                said = count(height, width)
                assert said == wanted, (
                    f"image_tokens says {said} for an image of {height} x {width} pixels{given}, the processor makes {wanted}"
                )

    def test_no_image_tokens_are_guessed(self, spec: Any, tmp_path: Path) -> None:
        folder = tiny_folder(tmp_path, architecture=self.architecture)
        try:
            count = self.counter(spec, folder)
        except Exception as error:
            pytest.fail(f"for a folder that says nothing of images, image_tokens raises {type(error).__name__}: {error}")
        assert count is None, f"image_tokens gives {count!r} for a folder that says nothing of images; None is asked for"
