"""Image-text models: the families that are known here, and their processors."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoProcessor, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from swift.api import DataError, MediaProcessor, Medium, ModelError

MEDIA_CONFIGS = ("vision_config", "audio_config", "visual", "vision_tower", "speech_config")
"""Keys of config.json that models of more than text have."""


@dataclass(frozen=True)
class Family:
    """What an image-text architecture has where.

    Args:
        vit, aligner: Paths of modules.
        axes: Position ids beside those of the text, as the model's `get_rope_index` gives them.
        scaled: Images keep their size, within bounds of pixels that its image processor has as `size`.
    """

    vit: tuple[str, ...]
    aligner: tuple[str, ...]
    axes: int = 0
    scaled: bool = False

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"vit": self.vit, "aligner": self.aligner, "llm": ("model.language_model", "lm_head")}


FAMILIES = {
    "llava": Family(("model.vision_tower",), ("model.multi_modal_projector",)),
    "qwen2_vl": Family(("model.visual",), ("model.visual.merger",), axes=3, scaled=True),
    "qwen2_5_vl": Family(("model.visual",), ("model.visual.merger",), axes=3, scaled=True),
    "qwen3_vl": Family(("model.visual",), ("model.visual.merger", "model.visual.deepstack_merger_list"), axes=3, scaled=True),
}
"""`model_type` of config.json -> family."""
SUPPORTED = "LLaVA (LlavaForConditionalGeneration), Qwen2-VL, Qwen2.5-VL and Qwen3-VL (Qwen3VLForConditionalGeneration)"


class TransformersMedia(MediaProcessor):
    """A processor of transformers'. Images take their size from the processor of the model folder.

    Args:
        processor: With image processor and tokenizer.
        config: The model's.
        folder: Where the processor's files are.
        again: Makes it anew, in another process.
    """

    def __init__(self, processor: Any, config: Any, folder: Path, again: Callable[[], TransformersMedia]) -> None:
        self.processor, self.config, self.folder, self._again = processor, config, folder, again
        self.axes = FAMILIES[config.model_type].axes
        self.placeholders = {"images": processor.image_token}
        self.placeholder_ids = frozenset({processor.image_token_id})

    def __reduce__(self) -> tuple[Any, ...]:
        return _call, (self._again,)

    def text(self, kind: str, size: tuple[int, int]) -> str:
        try:
            count = self.processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"][0]
        except ValueError as error:  # too long and thin
            raise DataError(f"an image of {size[1]} x {size[0]} pixels: {error}", fix="cut it, or remove the row") from error
        return str(self.processor.image_token) * int(count)

    def medium(self, kind: str, item: Any) -> Medium:
        made = self.processor.image_processor(images=[item.convert("RGB")], return_tensors="pt")
        text = self.processor.replace_image_token(made, image_idx=0)
        return Medium(text.count(self.processor.image_token), dict(made))

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[list[int], dict[str, torch.Tensor]]:
        parts = [
            {**m, "content": [{"type": "text", "text": m["content"]}] if isinstance(m.get("content"), str) else m["content"]}
            for m in messages
        ]
        made = dict(self.processor.apply_chat_template(
            parts, chat_template=self.processor.tokenizer.chat_template, tokenize=True, return_dict=True, return_tensors="pt",
            **options,
        ))  # fmt: skip
        ids = made.pop("input_ids")[0].tolist()
        del made["attention_mask"]
        return ids, made

    def positions(self, input_ids: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """By the model class's own `get_rope_index`, which reads nothing of the model but its config."""
        model_class, shell = self._positions_of
        types = (input_ids == self.processor.image_token_id).int()
        found, _ = model_class.get_rope_index(shell, input_ids[None], types[None], image_grid_thw=tensors.get("image_grid_thw"))
        return found[:, 0]

    @cached_property
    def _positions_of(self) -> tuple[Any, Any]:
        whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(self.config)]
        model_class = getattr(transformers, whole.__name__.replace("ForConditionalGeneration", "Model"))
        shell = SimpleNamespace(config=self.config)
        shell.get_vision_position_ids = model_class.get_vision_position_ids.__get__(shell)
        return model_class, shell

    def digest(self) -> str:
        settings = self.processor.image_processor.to_json_string()
        own = {key: value for key, value in vars(self.processor).items() if isinstance(value, (str, int, float, type(None)))}
        parts = [settings, own, type(self.processor).__qualname__, transformers.__version__]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()

    def save_pretrained(self, folder: Path) -> None:
        self.processor.chat_template = self.processor.tokenizer.chat_template
        self.processor.save_pretrained(folder)
        _carry_over_videos(self.folder, folder)


def _call(function: Callable[[], TransformersMedia]) -> TransformersMedia:
    return function()


def load_processor(
    folder: Path, tokenizer: PreTrainedTokenizerBase, *, trust_remote_code: bool = False, files: Path | None = None,
    min_pixels: int | None = None, max_pixels: int | None = None,
) -> TransformersMedia:  # fmt: skip
    """Of a folder whose model type is in `FAMILIES`. Raises `ModelError`."""
    again = partial(
        load_processor, folder, tokenizer, trust_remote_code=trust_remote_code, files=files, min_pixels=min_pixels,
        max_pixels=max_pixels,
    )  # fmt: skip
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    processor_class = PROCESSOR_MAPPING[type(config)]
    videos = "video_processor" in processor_class.get_attributes()
    source = _images_only(processor_class) if videos else AutoProcessor
    processor = source.from_pretrained(files or folder, trust_remote_code=trust_remote_code, local_files_only=True)
    if not isinstance(processor, ProcessorMixin):
        raise ModelError(f"{folder} has no processor of images", fix="copy preprocessor_config.json of the model into it")
    if processor.chat_template:
        tokenizer.chat_template = processor.chat_template
    processor.tokenizer = tokenizer
    given = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    given = {key: value for key, value in given.items() if value is not None}
    if given and not FAMILIES[config.model_type].scaled:
        raise ModelError(
            f"a {config.model_type} model scales all images to one size: there is no range of pixels",
            fix="leave out --max_pixels and --min_pixels",
        )
    if given:
        size = {**dict(processor.image_processor.size), **given}
        if size["shortest_edge"] > size["longest_edge"]:
            raise ModelError(
                f"min_pixels {size['shortest_edge']} is above max_pixels {size['longest_edge']}", fix="give both, in order"
            )
        processor.image_processor.size = type(processor.image_processor.size)(**size)
    return TransformersMedia(processor, config, folder, again)


def _images_only(processor_class: Any) -> Any:
    """The processor without its part for videos, which needs torchvision and settings of its own even where there are none."""
    names = [name for name in processor_class.get_attributes() if name != "video_processor"]
    return type(processor_class.__name__, (processor_class,), {"get_attributes": classmethod(lambda cls: names)})


def _carry_over_videos(source: Path, target: Path) -> None:
    """Settings of the part for videos, where a processor without it has written the others."""
    name = "video_preprocessor_config.json"
    if (source / name).is_file() and not (target / name).exists():
        shutil.copyfile(source / name, target / name)
    config = target / "processor_config.json"
    if not (source / config.name).is_file() or not config.is_file():
        return
    old = json.loads((source / config.name).read_text(encoding="utf-8"))
    new = json.loads(config.read_text(encoding="utf-8"))
    if "video_processor" in old and "video_processor" not in new:
        config.write_text(json.dumps({**new, "video_processor": old["video_processor"]}, indent=2) + "\n", encoding="utf-8")
