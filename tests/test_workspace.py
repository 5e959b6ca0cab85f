"""The packages of the checkout obey the naming law, and every list of them says the same."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest and mypy there

ROOT = Path(__file__).resolve().parent.parent


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(f"swift_tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool("members")
MEMBERS = tool.members()
IDS = [m.folder for m in MEMBERS]


def toml(file: Path) -> dict:
    return tomllib.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def root() -> dict:
    return toml(ROOT / "pyproject.toml")


def test_naming_law():
    expected = {
        "core": ("swift-llm-core", "swift"),
        "devices/cpu": ("swift-llm-device-cpu", "swift_device_cpu"),
        "tuners/peft": ("swift-llm-tuner-peft", "swift_tuner_peft"),
        "backends/parallel/torch": ("swift-llm-parallel-torch", "swift_parallel_torch"),
        "backends/engines/vllm": ("swift-llm-engine-vllm", "swift_engine_vllm"),
        "plugins/models/qwen": ("swift-llm-model-qwen", "swift_model_qwen"),
        "plugins/ui/web": ("swift-llm-ui-web", "swift_ui_web"),
        "plugins/tiny": ("swift-llm-tiny", "swift_tiny"),
    }
    assert {folder: tuple(tool.member(folder))[1:] for folder in expected} == expected


@pytest.mark.parametrize("member", MEMBERS, ids=IDS)
def test_member_is_a_whole_package(member, root):
    folder = ROOT / member.folder
    project = toml(folder / "pyproject.toml")
    meta = project["project"]
    assert meta["name"] == member.dist
    assert meta["version"] == root["project"]["version"]
    assert meta["requires-python"] == root["project"]["requires-python"]
    assert meta["license"] == "Apache-2.0"
    assert project["tool"]["flit"]["module"]["name"] == member.module
    assert len((folder / "README.md").read_text(encoding="utf-8")) > 200
    assert list((folder / "tests").glob("**/test_*.py"))
    assert (folder / "src" / member.module / "__init__.py").is_file()


@pytest.mark.parametrize("member", MEMBERS[1:], ids=IDS[1:])
def test_plugin_has_a_door_and_asks_for_the_core(member):
    meta = toml(ROOT / member.folder / "pyproject.toml")["project"]
    assert (ROOT / member.folder / "src" / member.module / "__init__.py").read_text(encoding="utf-8").strip() == ""
    (door,) = meta["entry-points"]["swift.plugins"].items()
    assert door == (member.dist.removeprefix("swift-llm-"), f"{member.module}.swift_plugin")
    assert (ROOT / member.folder / "src" / member.module / "swift_plugin.py").is_file()
    requirements = {r.name: r for r in map(Requirement, meta["dependencies"])}
    core = requirements["swift-llm-core"].specifier
    assert meta["version"] in core and "0.2.0" not in core
    assert not [name for name in requirements if name.startswith("swift-llm-") and name != "swift-llm-core"]
    assert "swift-plugin" in meta["keywords"]


def test_dev_requirements_list_every_member():
    assert tool.DEV_FILE.read_text(encoding="utf-8") == tool.dev_requirements(), "run: python tools/members.py --write"


def test_metapackage_knows_every_member(root):
    hook = root["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    assert hook["members"] == {m.dist: m.folder for m in sorted(MEMBERS, key=lambda m: m.dist)}
    assert {name.partition("[")[0] for name in hook["default"]} <= set(hook["members"])
    assert set(root["tool"]["uv"]["sources"]) == set(hook["members"])


def test_pytest_looks_into_every_member(root):
    patterns = root["tool"]["pytest"]["ini_options"]["testpaths"]
    found = {p.relative_to(ROOT).as_posix() for pattern in patterns for p in ROOT.glob(pattern)}
    assert {f"{m.folder}/tests" for m in MEMBERS} <= found


def test_bootstrap_installs_what_the_extras_name(root):
    extras = root["tool"]["hatch"]["metadata"]["hooks"]["custom"]["extras"]
    names = {extra: sorted(Requirement(r).name for r in wanted) for extra, wanted in extras.items()}
    bootstrap = load_tool("bootstrap")
    assert names["test"] == sorted(bootstrap.TOOLS["test"])
    assert names["lint"] == sorted(bootstrap.TOOLS["lint"])
    assert names["build"] == sorted(bootstrap.BUILD)


def test_every_direct_requirement_is_pinned_in_constraints(root):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and line[0] != "#"]
    wanted = [r for extra in root["tool"]["hatch"]["metadata"]["hooks"]["custom"]["extras"].values() for r in extra]
    for member in MEMBERS:
        meta = toml(ROOT / member.folder / "pyproject.toml")["project"]
        wanted += [*meta["dependencies"], *(r for extra in meta.get("optional-dependencies", {}).values() for r in extra)]
    for requirement in map(Requirement, wanted):
        if requirement.name.startswith("swift-llm"):
            continue
        pins = [p for p in pinned if p.name.lower().replace("_", "-") == requirement.name.lower().replace("_", "-")]
        assert pins, f"{requirement.name} has no line in constraints.txt"
        for pin in pins:
            (version,) = pin.specifier
            assert requirement.specifier.contains(version.version), f"{pin} is outside of {requirement}"


MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:work|root|home/\w+|opt/(?:wheels|pypi)|tmp/(?:dev|h\d))\b")
# Any index that is not the public one, and links to it with a login.
REGISTRY = re.compile(r"(--(?:extra-)?index-url|--find-links|trusted-host|://[^/\s\"']+@)", re.IGNORECASE)
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".jinja", ".sh", ".cfg", ""}


def project_files() -> list[Path]:
    """Tracked files (a user's own, beside them, are nobody's business); without git, everything that is no build product."""
    git = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if git.returncode == 0 and git.stdout:
        return [p for p in (ROOT / name for name in git.stdout.split("\0") if name) if p.is_file()]
    skipped = {".git", ".venv", "__pycache__", "runs", ".pytest_cache", ".ruff_cache", ".mypy_cache"}
    return [p for p in ROOT.rglob("*") if p.is_file() and not skipped & set(p.relative_to(ROOT).parts)]


def test_no_file_carries_a_path_of_one_machine_or_a_private_index():
    found = []
    for file in project_files():
        if file.suffix not in TEXT or file == Path(__file__) or "src/swift_tiny/model" in file.as_posix():
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MACHINE_PATH.search(line) or (REGISTRY.search(line) and file.suffix in {".txt", ".toml", ".cfg", ""}):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_no_large_file_is_shipped():
    large = {p.relative_to(ROOT).as_posix(): p.stat().st_size for p in project_files() if p.stat().st_size > 2_000_000}
    assert set(large) <= {"plugins/tiny/src/swift_tiny/model/model.safetensors"}, large
