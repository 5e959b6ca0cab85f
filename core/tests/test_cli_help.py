"""`--help` and completion, from schemas."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swift.api import KINDS, plural
from swift.cli import completion, flags, help
from swift.cli.main import NOT_YET, VERBS
from swift.config.schema import VERB_SECTIONS
from swift.config.sections import SLOTS
from swift.config.spelling import CONFIG_VERBS
from swift.plugins.info import PluginInfo
from swift.plugins.registry import Registry


@pytest.fixture(scope="module")
def registry():
    if "config_parts" not in sys.modules:
        spec = importlib.util.spec_from_file_location("config_parts", Path(__file__).parent / "data" / "config_parts.py")
        sys.modules["config_parts"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["config_parts"].registry()


def test_copied_tables_are_true():
    assert flags.SLOTS == SLOTS
    assert set(CONFIG_VERBS) == set(VERB_SECTIONS) and set(CONFIG_VERBS) <= set(VERBS)
    assert set(completion.LIST_KINDS) == {plural(kind) for kind in KINDS}
    assert not set(VERBS) & set(NOT_YET)


@pytest.mark.parametrize("verb", CONFIG_VERBS)
def test_help_shows_every_field_with_its_meaning(verb, registry):
    text = help.render(verb, [], registry, columns=100)
    for section in VERB_SECTIONS[verb].values():
        for name, field in section.model_fields.items():
            assert f"{name}" in text or name in ("id", "name", "dir")
            first = " ".join(field.description.split()).split(" ")[0]
            assert first in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_help_shows_type_default_and_choices(registry):
    text = " ".join(help.render("sft", [], registry, columns=120).split())
    assert "--batch_size N Rows (or packs) per device and micro-batch. [1]" in text
    assert "--dtype auto|float32|bfloat16|float16" in text
    assert "--watch [true|false] Show a live table" in text
    assert "--dataset DATASET ... Files, folders" in text
    assert "-o, --output TEXT Run directory" in text
    assert "--resume RUN Go on with the run" in text


def test_help_shows_settings_of_what_is_chosen(registry):
    text = help.render("sft", [], registry)
    assert (
        "Settings of tuner lora" in text and "--lora.rank N" in text and "--adamw.beta2 X" in text and "dora.rank" not in text
    )
    text = help.render("sft", ["--tuner", "dora"], registry)
    assert "--dora.rank N" in text and "--lora.rank N" not in text
    assert "--full.freeze TEXT ..." in help.render("sft", ["--tuner_type=full"], registry)
    everything = help.render("sft", [], registry, everything=True)
    assert "--dora.rank" in everything and "--lora.rank" in everything and "--full.freeze" in everything


def test_help_survives_a_broken_settings_class(registry):
    assert "Settings of tuner broken" not in help.render("sft", ["--tuner", "broken"], registry)
    assert "Settings of tuner lora" in help.render("sft", [], registry, everything=True)


def test_help_never_shows_a_secrets_default(registry):
    text = help.render("sft", [], registry, everything=True)
    assert "--board.api_key" in text


def test_overview(registry, capsys, monkeypatch):
    monkeypatch.setattr(help, "discover", lambda: registry)
    assert help.overview() == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        assert f"  {verb} " in text
    assert "greet" in text and "say hello" in text and "acme-dpo" in text and "cannot be used" not in text


def test_overview_names_broken_plugins_in_one_line(capsys, monkeypatch):
    plugin = PluginInfo("tuner-bad", "bad", "1.0", "bad.swift_plugin", status="broken", reason="boom")
    monkeypatch.setattr(help, "discover", lambda: Registry([plugin]))
    help.overview()
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last == "1 installed plugin cannot be used: tuner-bad (broken); see swift doctor"


# ----------------------------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([""], {"sft", "chat", "doctor", "greet", "acme-dpo"}),
        (["s"], {"sft"}),
        (["sft", "--lea"], {"--learning_rate"}),
        (["sft", "--learning-r"], {"--learning-rate"}),
        (["sft", "--tuner", ""], {"lora", "dora", "full", "broken"}),
        (["sft", "--tuner", "d"], {"dora"}),
        (["sft", "--tuner=d"], {"--tuner=dora"}),
        (["sft", "--dtype", "b"], {"bfloat16"}),
        (["sft", "--lora.bias", ""], {"none", "all"}),
        (["sft", "--tuner", "dora", "--dora.ra"], {"--dora.rank"}),
        (["sft", "--no-w"], {"--no-watch"}),
        (["sft", "--watch", ""], {"true", "false"}),
        (["sft", "--device", ""], {"auto", "cpu"}),
        (["export", "--to", ""], {"merged"}),
        (["list", "tu"], {"tuners"}),
        (["plugin", "sh"], {"show"}),
        (["config", ""], {"schema", "show"}),
        (["config", "show", "sft", "--tuner", "f"], {"full"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["sft", "--seed", "1", ""], set()),
        (["sft", "--config", ""], set()),
        (["sft", "--dataset", "./a"], set()),
        (["infer", ""], set()),
        (["nonsense", ""], set()),
    ],
)
def test_candidates(words, found, registry):
    got = set(completion.candidates(words, registry))
    assert got >= found if words == [""] else got == found


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_scripts_are_printed(shell, capsys):
    assert completion.main([shell]) == 0
    assert "swift __complete" in capsys.readouterr().out


def test_bash_completes(tmp_path):
    """In a real bash, at a word with "=", which readline breaks."""
    command = tmp_path / "swift"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m swift "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    script = f"""
    source <("{command}" completion bash)
    COMP_LINE="swift sft --dtype=b" COMP_POINT=19 COMP_WORDS=(swift sft --dtype = b) COMP_CWORD=4
    _swift_complete; echo "${{COMPREPLY[*]}}"
    COMP_LINE="swift com" COMP_POINT=9 COMP_WORDS=(swift com) COMP_CWORD=1
    _swift_complete; echo "${{COMPREPLY[*]}}"
    COMP_LINE="swift sft --dtype " COMP_POINT=18 COMP_WORDS=(swift sft --dtype "") COMP_CWORD=3
    _swift_complete; echo "${{COMPREPLY[*]}}"
    """
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout.splitlines() == ["bfloat16", "completion", "auto bfloat16 float16 float32"], done.stderr
