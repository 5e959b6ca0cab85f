"""`Swift` and `LoRAConfig`: adapters on models that the user holds. The tuner plugin's library does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.api.contracts.tuners import AdapterLibrary
from swift.config.spelling import did_you_mean
from swift.errors import ConfigError
from swift.inference.source import run_of
from swift.plugins.loading import load_impl
from swift.plugins.registry import discover

SETTINGS = {
    "r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "target_modules",
    "exclude_modules": "exclude_modules", "layers_to_transform": "layers_to_transform", "bias": "bias",
    "use_rslora": "use_rslora", "use_dora": "use_dora", "modules_to_save": "modules_to_save", "init_lora_weights": "init",
}  # fmt: skip
"""PEFT's names of LoRA's fields -> the settings of the tuner `lora`. PEFT's other fields are its `options`."""
SPELLINGS = {
    "rank": "r", "lora_rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "dropout_p": "lora_dropout",
    "lora_dropout_p": "lora_dropout", "lora_bias": "bias",
}  # fmt: skip
DEFAULTS: dict[str, Any] = {"r": 8, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}
"""Those of `swift sft --tuner lora`."""


def library() -> AdapterLibrary:
    """Raises `PluginNotFound`, with the pip command, where no plugin offers LoRA."""
    found: AdapterLibrary = load_impl(discover().find("tuner", "lora")).library()
    return found


class LoRAConfig:
    """LoRA, by PEFT's names: `LoRAConfig(r=8, target_modules=["q_proj", "v_proj"], lora_alpha=32, lora_dropout=0.05)`.

    Args:
        **values: Any field of PEFT's `LoraConfig`; `dropout_p`, `rank` and `alpha` are understood too. What is left out is as
            in `swift sft --tuner lora`: r 8, lora_alpha 32, lora_dropout 0.05, all linear layers. Fields can be read as
            attributes.

    Raises:
        ConfigError: A name that PEFT does not know, with the near ones; or two spellings of one field.
    """

    def __init__(self, *unnamed: Any, **values: Any) -> None:
        if unnamed:
            raise ConfigError(f"LoRAConfig({unnamed[0]!r}): values need their names", fix="LoRAConfig(r=8, lora_alpha=32)")
        given: dict[str, Any] = {}
        for name, value in values.items():
            field = SPELLINGS.get(name, name)
            if field in given:
                raise ConfigError(f"LoRAConfig: {name} is the same as {field}, given already", fix="keep one of them")
            given[field] = value
        if set(given) - set(SETTINGS) and (unknown := sorted(set(given) - (known := library().fields("lora")))):
            texts = [f"{name} is unknown{did_you_mean(name, [*known, *SPELLINGS])}" for name in unknown]
            raise ConfigError("LoRAConfig: " + "; ".join(texts), fix="any field of PEFT's LoraConfig can be given")
        targets = given.get("target_modules")
        if isinstance(targets, str) and targets != DEFAULTS["target_modules"] and targets.replace("_", "").isalnum():
            given["target_modules"] = [targets]  # PEFT would match a bare text against whole paths
        self.values: dict[str, Any] = {**DEFAULTS, **given}

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("values", {})
        if SPELLINGS.get(name, name) in values:
            return values[SPELLINGS.get(name, name)]
        raise AttributeError(f"LoRAConfig was given no {name}; it has {', '.join(values)}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoRAConfig) and self.values == other.values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"LoRAConfig({', '.join(f'{name}={value!r}' for name, value in self.values.items())})"

    def to_peft(self) -> Any:
        """PEFT's own `LoraConfig`. Raises `ConfigError` where PEFT refuses a value."""
        return library().config("lora", self.values)


def tuner_values(config: Any) -> dict[str, Any]:
    """Config keywords (tuner and its settings) of an adapter configuration, or of the one that a prepared model carries.

    Args:
        config: A `LoRAConfig`, a config object of PEFT's, a model of `Swift.prepare_model`, or a dict of LoRA's fields.
    """
    config = LoRAConfig(**config) if isinstance(config, Mapping) else config
    method, values = ("lora", config.values) if isinstance(config, LoRAConfig) else library().describe(config)
    settings: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if method == "lora":
        # PEFT leaves these out where they are its defaults, which are others than the tuner's.
        values = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": None, **values}
    own = SETTINGS if method == "lora" else {name: name for name in ("target_modules", "modules_to_save")}
    for name, value in values.items():
        if name not in own or (name == "target_modules" and value is None):
            options[name] = value
        elif name == "init_lora_weights" and value in (True, False, None):
            settings["init"] = "default" if value else "random"
        elif name in ("target_modules", "modules_to_save", "exclude_modules", "layers_to_transform"):
            if value is not None:
                settings[own[name]] = [value] if isinstance(value, (str, int)) else list(value)
        else:
            settings[own[name]] = value
    return {"tuner": method, method: {**settings, **({"options": options} if options else {})}}


class Swift:
    """Adapters on a model that you hold: any `torch.nn.Module`, of transformers or your own."""

    @staticmethod
    def prepare_model(model: Any, config: Any = None, *, adapter_name: str = "default", **values: Any) -> Any:
        """Put an adapter on a model; called again with another name, a further one, which is then the active one.

        Args:
            config: A `LoRAConfig`, any config object of PEFT's, or {adapter name: config}.
            **values: LoRA's fields, instead of a config.

        Returns:
            PEFT's model: `print_trainable_parameters()`, `save_pretrained(folder)`, `merge_and_unload()`, ...

        Raises:
            ConfigError: No such configuration, or the name is taken.
            ModelError: The method does not fit the model.
        """
        if config is not None and values:
            raise ConfigError("give a config or its fields, not both", fix="Swift.prepare_model(model, LoRAConfig(...))")
        if isinstance(config, Mapping) and all(isinstance(c, LoRAConfig) or hasattr(c, "peft_type") for c in config.values()):
            for name, each in config.items():
                model = Swift.prepare_model(model, each, adapter_name=str(name))
            return model
        config = LoRAConfig(**(config or values)) if config is None or isinstance(config, Mapping) else config
        peft = config.to_peft() if isinstance(config, LoRAConfig) else config
        return library().prepare(model, peft, adapter_name=adapter_name)

    @staticmethod
    def from_pretrained(
        model: Any,
        folder: Any = None,
        adapter_name: str | Sequence[str] = "default",
        *,
        is_trainable: bool = False,
        model_id: Any = None,
    ) -> Any:
        """Put saved adapters on a model.

        Args:
            folder: A run directory, or a folder in PEFT's format; `model_id` is the same.
            adapter_name: Names that they get. Adapters beside the default one are in subfolders of their name.

        Raises:
            ModelError: No adapter there, or one that was made for another model.
        """
        folder = folder if folder is not None else model_id
        if not isinstance(folder, (str, Path)):
            raise ConfigError(
                f"the adapter is given as {folder!r}",
                fix="name a run directory or a folder: Swift.from_pretrained(model, 'runs/a')",
            )
        found = run_of(Path(folder))
        weights = found[0].weights(found[1]) if found else Path(folder)
        adapters = library()
        for name in [adapter_name] if isinstance(adapter_name, str) else adapter_name:
            own = weights / name
            place = own if (own / "adapter_config.json").is_file() else weights
            model = adapters.attach(model, place, adapter_name=name, trainable=is_trainable)
        return model

    @staticmethod
    def activate(model: Any, *names: str) -> Any:
        """Exactly these adapters answer and train; without names the default one."""
        library().activate(model, names or ("default",))
        return model

    @staticmethod
    def deactivate(model: Any) -> Any:
        """The base model answers, until `activate`."""
        library().deactivate(model)
        return model

    @staticmethod
    def merge(model: Any) -> Any:
        """Fold the active adapter into the weights, in place; `unmerge` takes it out again."""
        return library().merge(model, unload=False)

    @staticmethod
    def unmerge(model: Any) -> Any:
        return library().unmerge(model)

    @staticmethod
    def merge_and_unload(model: Any) -> Any:
        """The plain model, with the adapter folded in."""
        return library().merge(model, unload=True)

    @staticmethod
    def save_pretrained(model: Any, folder: Any) -> Path:
        """Write the adapters in PEFT's format; those beside the default one into subfolders of their name."""
        if not library().is_prepared(model):
            raise ConfigError(
                f"this {type(model).__name__} carries no adapter", fix="model.save_pretrained(folder) saves a whole model"
            )
        Path(folder).mkdir(parents=True, exist_ok=True)
        model.save_pretrained(str(folder), save_embedding_layers=False)
        return Path(folder)


def __getattr__(name: str) -> Any:
    """`LoraConfig` is PEFT's own class, with PEFT's defaults."""
    if name == "LoraConfig":
        return type(library().config("lora", {}))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
