"""`swift plugin new`: what it writes for every kind passes its own tests unedited, is lint-clean, and runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from flit_core.wheel import make_wheel_in
from plugin_dists import make_dist, python

from swift.api import KINDS
from swift.cli import plugin
from swift.errors import ConfigError, PluginConflict
from swift.scaffold import render

RUFF = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SWIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SWIFT_CONFIG", str(tmp_path / "plugins.json"))
    monkeypatch.chdir(tmp_path)


def install(project: Path, site: Path) -> None:
    """What `pip install` does: build the wheel, and unpack it."""
    with zipfile.ZipFile(make_wheel_in(project / "pyproject.toml", site).file) as wheel:
        wheel.extractall(site)


def test_the_written_packages_of_all_kinds_pass_their_own_tests(tmp_path):
    """In one process, as importing torch takes longer than most of them."""
    site = tmp_path / "site"
    site.mkdir()
    projects = [tmp_path / f"swift-{kind}-my-{kind}" for kind in KINDS]
    for kind, project in zip(KINDS, projects, strict=True):
        assert plugin.main(["new", kind, f"my-{kind}"]) == 0
        install(project, site)
    env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-rf"]
    done = subprocess.run([*command, *projects], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_every_kind_has_a_template_and_no_template_is_left_over():
    assert list(render.KINDS) == list(KINDS)
    assert {p.name for p in render.TEMPLATES.iterdir()} == {*KINDS, "common"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["my", "4bit.x-y_z", "a" * render.LONGEST_NAME, "tuner", "my-tracker"])
def test_any_legal_name_gives_a_whole_package(kind, name):
    files = render.files(kind, name)
    package = render.words(kind, name)["package"]
    assert {
        "pyproject.toml", "README.md", ".gitignore", ".github/workflows/ci.yml", "tests/test_contract.py",
        f"src/{package}/__init__.py", f"src/{package}/swift_plugin.py",
    } <= set(files)  # fmt: skip
    for path, text in files.items():
        assert not re.search(r"\$(?!\{\{)\w", text.replace("$" + render.words(kind, name)["ENV"], "")), path
        if path.endswith(".py"):
            ast.parse(text)
    assert f'= contract("{kind}:{name}")' in files["tests/test_contract.py"]
    assert "${{ matrix.python }}" in files[".github/workflows/ci.yml"]


@pytest.mark.skipif(RUFF is None, reason="ruff is not installed")
def test_what_is_written_is_lint_clean_and_formatted(tmp_path):
    for kind in KINDS:
        for name in ("my", "my-thing", "4bit.x-y_z", "a" * render.LONGEST_NAME):
            render.write(kind, name, tmp_path / f"{kind}-{name}")
    lint = subprocess.run([RUFF, "check", "--no-cache", tmp_path], capture_output=True, text=True)
    assert lint.returncode == 0, lint.stdout[-3000:]
    usual = [*tmp_path.glob("*-my"), *tmp_path.glob("*-my-thing")]
    form = subprocess.run([RUFF, "format", "--diff", "--no-cache", *usual], capture_output=True, text=True)
    assert form.returncode == 0, form.stdout[-3000:]


def test_it_says_what_to_type_next(capsys, tmp_path):
    assert plugin.main(["new", "tuner", "norms"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'swift-tuner-norms'}: swift-tuner-norms, which offers tuner:norms" in out
    for line in ("cd swift-tuner-norms", "pip install -e '.[test]'", "pytest", "swift sft --model MODEL", "--tuner norms"):
        assert line in out
    (tmp_path / "empty").mkdir()
    assert plugin.main(["new", "hub", "share", "--dir", "empty"]) == 0
    assert (tmp_path / "empty/src/swift_hub_share/hub.py").is_file()
    capsys.readouterr()
    (tmp_path / "here").mkdir()
    os.chdir(tmp_path / "here")
    assert plugin.main(["new", "metric", "hits", "--dir", "."]) == 0
    assert "cd " not in capsys.readouterr().out.partition("next:")[2]
    assert sorted(os.listdir()) == [".github", ".gitignore", "README.md", "pyproject.toml", "src", "tests"]
    assert "$SHARE_ROOT" in (tmp_path / "empty/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("tunr", "x", ["no kind 'tunr'", "did you mean tuner?", "swift plugin new tuner x"]),
        ("tuners", "x", ["did you mean tuner?"]),
        ("quark", "x", ["Kinds are model, dataset"]),
        ("tuner", "My Tuner!", ["not a legal name", "swift plugin new tuner my-tuner"]),
        ("tuner", "-x", ["not a legal name"]),
        ("tuner", "../x", ["not a legal name"]),
        ("tuner", "a" * 33, ["at most 32"]),
    ],
)
def test_wrong_kinds_and_names_are_refused(kind, name, words, tmp_path):
    with pytest.raises(ConfigError) as caught:
        plugin.main(["new", kind, "--", name])
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not list(tmp_path.glob("swift-*"))


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("tuner", "lora", "swift-llm-tuner-peft"),
        ("model", "qwen9", "swift-llm-model-qwen"),
        ("command", "sft", "command of Swift itself"),
        ("tracker", "logging", "section of Swift's own configuration"),
    ],
)
def test_taken_names_are_refused(kind, name, words):
    with pytest.raises(PluginConflict, match=words):
        plugin.main(["new", kind, name])


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("mine", encoding="utf-8")
    for where in ("used", "used/file"):
        with pytest.raises(ConfigError, match="needs a folder of its own"):
            plugin.main(["new", "tuner", "norms", "--dir", where])
    assert [p.name for p in (tmp_path / "used").iterdir()] == ["file"]


def test_a_fault_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "files", lambda kind, name: {"a": "x", "a/b": "y"})
    with pytest.raises(ConfigError, match="cannot be written"):
        plugin.main(["new", "tuner", "norms", "--dir", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))


# ------------------------------------------------------------------------------------------------------------------- check


def test_check_gives_a_verdict_per_claim(tmp_path):
    """Of a whole plugin and of one whose spec is wrong."""
    started = []
    for name, rows in (("right", 4), ("wrong", 5)):
        site = tmp_path / name
        site.mkdir()
        render.write("dataset", name, tmp_path / f"project-{name}")
        install(tmp_path / f"project-{name}", site)
        door = site / f"swift_dataset_{name}" / "swift_plugin.py"
        door.write_text(door.read_text(encoding="utf-8").replace("rows=4", f"rows={rows}"), encoding="utf-8")
        command = [sys.executable, "-m", "swift", "plugin", "check", f"swift-dataset-{name}"]
        env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    (right, _), (wrong, _) = (process.communicate(timeout=300) for process in started)
    assert [process.returncode for process in started] == [0, 1], right + wrong
    assert re.search(r"dataset:right +source and licence are named +holds", right) and " 0 failed, " in right
    assert (
        re.search(r"dataset:wrong +[\w ]*rows[\w ]* FAILED", wrong)
        and "the spec says 5 rows, there are 4" in wrong
        and " 1 failed, " in wrong
    )
    assert re.search(r"settings are strict and defaulted +- .*no settings", right)
    assert re.search(r"dataset:right +rows = 4 +holds +the number of rows is true", right)
    assert re.search(r"dataset:wrong +rows = 5 +FAILED +the number of rows is true", wrong)


CLAIMING = """
from swift.api import QuantizerSpec, hookimpl

@hookimpl
def swift_quantizers():
    return [QuantizerSpec(name="through", impl="{package}.impl:quantize", summary="a test", bits=(4,), trainable=True)]
"""


def test_check_fails_a_claim_that_cannot_be_tried(tmp_path):
    """And gives each claim of a spec its own verdict."""
    make_dist(tmp_path, CLAIMING, dist="acme-through", plugin="through", files={"impl.py": "def quantize(model): ..."})
    code = "import sys; from swift.cli.main import main; sys.exit(main(['plugin', 'check', 'acme-through']))"
    done = python(code, site=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "quantizer:through claims trainable, and this version's contract kit has no test for it" in done.stdout
    assert re.search(r"quantizer:through +trainable +FAILED +this version has none", done.stdout), done.stdout
    assert "1 failed" in done.stdout
