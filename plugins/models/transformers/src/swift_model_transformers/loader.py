"""Local folder -> model and tokenizer, through transformers' Auto classes."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from swift.api import Device, LoadedModel, LoadRequest, MediaProcessor, ModelError, ModelLoader
from swift_model_transformers.choices import Computes, choose_attention, choose_dtype
from swift_model_transformers.folder import check_weights, read_config, read_json, require_tokenizer, stored_dtype
from swift_model_transformers.isolation import keeps_documents_apart
from swift_model_transformers.media import FAMILIES, MEDIA_CONFIGS, load_processor
from swift_model_transformers.media import SUPPORTED as SUPPORTED_MEDIA
from swift_model_transformers.varlen import TORCH_VARLEN, without_mask

CAUSAL_LM_CLASSES = {
    name for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in ((names,) if isinstance(names, str) else names)
}
SUPPORTED = "decoder-only text models (LlamaForCausalLM, Qwen3ForCausalLM, MistralForCausalLM, ...)"


def slow_dtypes(device: Device, weights: Sequence[Path]) -> set[str]:
    """dtypes that are better widened: emulated ones, as long as twice the weights leave half of the memory free."""
    slow = set(device.dtypes()) - set(device.fast_dtypes())
    return slow if slow and 4 * sum(file.stat().st_size for file in weights) <= device.memory().total else set()


def takes_bounds(attention: str) -> bool:
    return attention == TORCH_VARLEN or attention.startswith("flash_attention")


class TransformersLoader(ModelLoader):
    """Loads any decoder-only language model that transformers (or trusted code in the folder) knows."""

    def load(self, request: LoadRequest) -> LoadedModel:
        folder = request.folder
        raw = read_config(folder)
        check_architecture(raw, folder, trust_remote_code=request.trust_remote_code)
        tokenizer = self.load_tokenizer(folder, trust_remote_code=request.trust_remote_code)
        weights = check_weights(folder) if request.init == "pretrained" else []
        device = request.device.setup(request.local_rank)
        dtype, dtype_note = choose_dtype(
            request.dtype, stored_dtype(raw, weights), request.device.dtypes(), training=request.training,
            slow=slow_dtypes(request.device, weights),
        )  # fmt: skip
        with quiet(), translated(folder):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=request.trust_remote_code, local_files_only=True)
            model_class = class_of(config, folder, trust_remote_code=request.trust_remote_code)
        family = FAMILIES[config.model_type] if is_media_model(raw) else None
        half = (request.autocast or dtype if dtype == "float32" else dtype) in ("bfloat16", "float16")
        # Bounds would also reach the vision tower, whose rows are others.
        documents = request.documents and family is None
        computes = Computes(model_class, config, dtype, half=half, device=device.type, documents=documents)
        attention, attention_note = choose_attention(request.attention, request.device.attention(), computes)
        notes = [dtype_note]
        options: dict[str, Any] = {
            "dtype": getattr(torch, dtype), "attn_implementation": attention, "trust_remote_code": request.trust_remote_code,
        }  # fmt: skip
        if request.init == "random":
            model = random_model(config, folder, seed=request.seed, **options)
            notes.append(f"weights: drawn at random from config.json (seed {request.seed})")
        else:
            model, unused = pretrained_model(config, folder, **options)
            if unused:
                notes.append(
                    f"weights: {len(unused)} tensors of the files are not part of {type(model).__name__}, e.g. {unused[0]}"
                )
        axes = family.axes if family else 0
        apart = keeps_documents_apart(model, attention, axes=axes) and not (family and attention == TORCH_VARLEN)
        if attention == TORCH_VARLEN and not apart and request.attention == "auto":
            attention_note = f"attention: sdpa ({TORCH_VARLEN} does not keep documents of a {model_class.__name__} apart)"
            attention = "sdpa"
            model.set_attn_implementation(attention)
            apart = keeps_documents_apart(model, attention, axes=axes)
        if attention == TORCH_VARLEN:
            without_mask(model)
        notes.insert(1, attention_note)
        notes += check_vocabulary(tokenizer, model, folder)
        if tokenizer.pad_token is None:
            notes.append(f"tokenizer: no pad token; padding is {tokenizer.eos_token!r} and never trained on")
        return LoadedModel(
            model=model.to(device),
            tokenizer=tokenizer,
            attention=attention,
            keeps_documents_apart=apart,
            takes_bounds=apart and takes_bounds(attention) and family is None,
            notes=notes,
            parts=family.parts if family else {},
            processor=self.load_processor(folder, tokenizer, trust_remote_code=request.trust_remote_code),
        )

    def load_processor(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, *, trust_remote_code: bool = False,
        files: Path | None = None, min_pixels: int | None = None, max_pixels: int | None = None,
    ) -> MediaProcessor | None:  # fmt: skip
        if not is_media_model(read_config(folder)):
            return None
        with quiet(), translated(folder, what="the processor of "):
            return load_processor(
                folder, tokenizer, trust_remote_code=trust_remote_code, files=files, min_pixels=min_pixels,
                max_pixels=max_pixels,
            )  # fmt: skip

    def adopt(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, request: LoadRequest) -> LoadedModel:
        if not hasattr(model, "get_input_embeddings") or not hasattr(model, "config"):
            raise ModelError(
                f"a {type(model).__name__} is no language model of transformers'; supported are {SUPPORTED}",
                fix="give what AutoModelForCausalLM.from_pretrained returns",
            )
        inside = getattr(model, "get_base_model", lambda: model)()  # below adapters
        attention = str(getattr(model.config, "_attn_implementation", None) or "eager")
        if request.attention not in ("auto", attention):
            raise ModelError(
                f"the model was made with attention {attention}, and {request.attention} is asked for",
                fix=f'AutoModelForCausalLM.from_pretrained(..., attn_implementation="{request.attention}")',
            )
        notes = [f"model: the {type(inside).__name__} that was given, attention {attention}"]
        apart = keeps_documents_apart(inside, attention)
        if attention == TORCH_VARLEN:
            without_mask(inside)
        notes += check_vocabulary(tokenizer, model, request.folder)
        return LoadedModel(
            model=model.to(request.device.setup(request.local_rank)).train(request.training),
            tokenizer=tokenizer,
            attention=attention,
            keeps_documents_apart=apart,
            takes_bounds=apart and takes_bounds(attention),
            notes=notes,
        )

    def load_tokenizer(self, folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
        raw = read_config(folder)
        require_tokenizer(folder)
        own_code = "AutoTokenizer" in _auto_map(folder)
        if own_code and not trust_remote_code and raw.get("model_type") not in CONFIG_MAPPING:
            raise ModelError(remote_code_message(folder, "tokenizer"), fix=REMOTE_CODE_FIX)
        with quiet(), translated(folder, what="the tokenizer of "):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        if len(tokenizer) == 0:
            raise ModelError(f"the tokenizer of {folder} has no tokens", fix="copy the model's tokenizer files into the folder")
        return tokenizer


# ---------------------------------------------------------------------------------------------------- what can be loaded

REMOTE_CODE_FIX = "read the .py files of the folder, then --trust_remote_code true; or take a model that transformers knows"


def remote_code_message(folder: Path, what: str) -> str:
    return (
        f"the {what} in {folder} needs Python code that ships in the folder; it would run with your rights, and is not trusted"
    )


def check_architecture(raw: dict[str, Any], folder: Path, *, trust_remote_code: bool) -> None:
    """Raises `ModelError` for everything that is not a decoder-only text model known here."""
    model_type = raw.get("model_type", "")
    architecture = (raw.get("architectures") or [""])[0]
    label = architecture or model_type or "a model of unknown type"
    if model_type not in CONFIG_MAPPING:
        auto_map = raw.get("auto_map") or {}
        if auto_map and not trust_remote_code:
            raise ModelError(remote_code_message(folder, f"model ({label})"), fix=REMOTE_CODE_FIX)
        if not auto_map:
            near = difflib.get_close_matches(model_type, list(CONFIG_MAPPING), n=3)
            meant = f"; near: {', '.join(near)}" if near else ""
            known = (
                f"transformers {transformers.__version__} does not know the architecture {label} (model_type {model_type!r})"
            )
            raise ModelError(f"{known}{meant}", fix="pip install -U transformers, or check model_type in config.json")
        return
    if raw.get("is_encoder_decoder"):
        raise ModelError(
            f"{label} in {folder} is an encoder-decoder; supported are {SUPPORTED}", fix="choose a decoder-only model"
        )
    if is_media_model(raw):
        return
    if any(raw.get(name) for name in MEDIA_CONFIGS):
        raise ModelError(
            f"{label} in {folder} also takes images or sound; of such models supported are {SUPPORTED_MEDIA}; else {SUPPORTED}",
            fix="choose one of these, or a text-only model",
        )
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (architecture and architecture not in CAUSAL_LM_CLASSES):
        own_code = trust_remote_code and "AutoModelForCausalLM" in (raw.get("auto_map") or {})
        if not own_code:
            raise ModelError(
                f"{label} in {folder} is no causal language model; supported are {SUPPORTED}", fix="choose another model"
            )


def is_media_model(raw: dict[str, Any]) -> bool:
    return raw.get("model_type") in FAMILIES and any(raw.get(name) for name in MEDIA_CONFIGS)


def auto_class(config: Any) -> Any:
    """transformers' class that makes the model of a config."""
    return AutoModelForImageTextToText if config.model_type in FAMILIES else AutoModelForCausalLM


def class_of(config: Any, folder: Path, *, trust_remote_code: bool) -> type[torch.nn.Module]:
    """The model class that transformers will take for a config."""
    reference = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if reference and trust_remote_code:
        return get_class_from_dynamic_module(reference, str(folder), local_files_only=True)
    return auto_class(config)._model_mapping[type(config)]


def _auto_map(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    settings = read_json(file) if file.is_file() else {}
    found = settings.get("auto_map") if isinstance(settings, dict) else None
    return found if isinstance(found, dict) else {}


# --------------------------------------------------------------------------------------------------------------- loading


def pretrained_model(config: Any, folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """(model on the CPU, names of tensors in the files that it has no place for). Raises `ModelError` where any is missing."""
    with quiet(), translated(folder):
        # Wrong shapes come back in the report instead of a traceback, and are refused below.
        model, report = auto_class(config).from_pretrained(
            folder, config=config, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    missing = sorted(report["missing_keys"])
    shapes = sorted((entry[0], tuple(entry[1]), tuple(entry[2])) for entry in report["mismatched_keys"])
    faults = [f"{len(missing)} parameters are missing, e.g. {missing[0]}"] if missing else []
    if shapes:
        name, there, wanted = shapes[0]
        faults.append(f"{len(shapes)} have another shape, e.g. {name} is {list(there)} instead of {list(wanted)}")
    if faults:
        raise ModelError(
            f"the weights in {folder} do not fit its config.json: {'; '.join(faults)}; training would start from random values",
            fix="take config.json and weights of the same model, or --init random to pre-train from nothing",
        )
    return model, sorted(report["unexpected_keys"])


def random_model(config: Any, folder: Path, *, seed: int, **options: Any) -> Any:
    """Weights drawn on the CPU, so that they are the same whatever the device; the caller's generators stay as they were."""
    with quiet(), translated(folder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(config).from_config(config, **options)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: Any, folder: Path) -> list[str]:
    """Notes. Raises `ModelError` where a token that text can produce has no row in the embedding."""
    rows = model.get_input_embeddings().weight.shape[0]
    outside = sorted(token for token, index in tokenizer.get_vocab().items() if index >= rows)
    if not outside:
        return []
    if outside == [tokenizer.unk_token]:  # transformers adds one to byte-level tokenizers, which never produce it
        return [
            f"tokenizer: its unknown token {tokenizer.unk_token} has no row in the embedding ({rows}) and is never produced"
        ]
    raise ModelError(
        f"the tokenizer in {folder} has {len(tokenizer)} tokens, the model's embedding {rows} rows: none for {outside[0]!r}",
        fix="take tokenizer and weights of the same model",
    )


@contextmanager
def translated(folder: Path, what: str = "") -> Iterator[None]:
    """transformers' errors, of many types, as one `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(
            f"{what}{folder} needs a package that is not installed: {_first_line(error)}", fix=_pip_fix(error)
        ) from error
    except Exception as error:
        raise ModelError(
            f"transformers {transformers.__version__} cannot load {what}{folder}: {type(error).__name__}: {_first_line(error)}",
            fix="--debug shows where; if the folder is damaged, download the model again",
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _pip_fix(error: ImportError) -> str:
    name = getattr(error, "name", None)
    return f"pip install {name}" if name else "install the package that the message names"


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings of transformers: what matters is checked here and said in `LoadedModel.notes`."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
