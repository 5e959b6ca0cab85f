"""From a chosen component to its implementation: requirements before imports, faults translated, other code noticed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from plugin_dists import TUNER, make_dist, new_site, python

from swift.errors import ConfigError, PluginBroken, PluginError
from swift.plan.plan import Component, Plan
from swift.plugins import hooks, loading, requirements
from swift.plugins.registry import discover

IMPL = """
from swift.api import Tuner

class Impl(Tuner):
    def apply(self, model, *, seed): return model
    def save(self, model, folder): ...
    def restore(self, model, folder): ...
"""
SETTINGS = """
from swift.api.settings import Settings

class Own(Settings):
    rank: int = 8
"""
DESCRIPTOR = TUNER.replace('summary="a test"', 'settings="{package}.settings:Own"')


@pytest.fixture
def site(tmp_path, monkeypatch):
    return new_site(tmp_path, monkeypatch)


def galore(site: Path, impl: str = IMPL, descriptor: str = DESCRIPTOR, **options):
    package = make_dist(site, descriptor, files={"impl.py": impl, "settings.py": SETTINGS}, **options)
    return package, discover(paths=[str(site)]).find("tuner", "galore")


def test_an_implementation_is_built_with_its_settings_and_name(site):
    package, entry = galore(site)
    component = loading.component_of(entry, {"rank": 4})
    built = loading.instantiate(component)
    assert type(built) is sys.modules[f"{package}.impl"].Impl
    assert (built.settings.rank, built.name) == (4, "galore")
    assert (component.kind, component.dist, component.version, component.plugin) == (
        "tuner",
        "acme-swift-galore",
        "0.3.1",
        "galore",
    )
    assert loading.load_impl(entry) is type(built)


def test_a_component_survives_the_plan_and_needs_no_discovery(site):
    _, entry = galore(site)
    component = loading.component_of(entry, {"rank": 4})
    again = Plan.from_json(Plan("sft", {}, components={"tuner": component}).to_json()).components["tuner"]
    assert again == component
    assert loading.instantiate(again).settings.rank == 4
    loading.verify(again)


def test_wrong_settings_are_a_config_error(site):
    _, entry = galore(site)
    for settings in ({"rank": "many"}, {"rnak": 4}):
        with pytest.raises(ConfigError, match="settings of tuner:galore"):
            loading.instantiate(loading.component_of(entry, settings))


def test_a_missing_requirement_is_said_before_anything_is_imported(site):
    package, entry = galore(
        site, descriptor=DESCRIPTOR.replace('impl="', 'requires=("no-such-dist>=0.45", "pydantic>=999", "pydantic>=2"), impl="')
    )
    with pytest.raises(PluginBroken) as caught:
        loading.load_impl(entry)
    assert (
        "needs no-such-dist>=0.45, found nothing" in caught.value.message
        and "needs pydantic>=999, found 2." in caught.value.message
    )
    assert "tuner:galore (acme-swift-galore 0.3.1)" in caught.value.message
    assert caught.value.fix == "pip install 'no-such-dist>=0.45' 'pydantic>=999'"
    assert f"{package}.impl" not in sys.modules


@pytest.mark.parametrize(
    ("impl", "says"),
    [
        ("import galore_torch_missing", "there is no module 'galore_torch_missing'"),
        ("raise ModuleNotFoundError('galore needs its kernels')", "imported: galore needs its kernels"),
        ("raise ModuleNotFoundError", "imported: a module is missing"),
        ("raise ImportError('built for another torch')", "imported: ImportError: built for another torch"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = 1", "has no 'Impl'"),
        ("class Impl: ...", "is not a subclass of swift.api.Tuner"),
        ("def Impl(): ...", "is not a subclass of swift.api.Tuner"),
        (IMPL.replace("    def save(self, model, folder): ...\n", ""), "lacks save of swift.api.Tuner"),
    ],
)
def test_a_faulty_implementation_is_translated(site, impl, says):
    _, entry = galore(site, impl)
    with pytest.raises(PluginBroken) as caught:
        loading.load_impl(entry)
    assert says in caught.value.message and "acme-swift-galore 0.3.1" in caught.value.message


def test_a_package_that_lacks_its_own_module_is_installed_anew(site):
    package, entry = galore(site)
    (site / package / "impl.py").write_text(f"import {package}.gone", encoding="utf-8")
    with pytest.raises(PluginBroken) as caught:
        loading.load_impl(entry)
    assert caught.value.fix == "pip install -U acme-swift-galore"


@pytest.mark.slow
def test_a_run_stops_at_a_broken_implementation_before_data_and_model(site):
    galore(site, "import galore_torch_missing")
    code = """
    from swift.cli.main import main
    raise SystemExit(main(["sft", "--model", "tiny", "--dataset", "tiny-identity", "--tuner", "galore", "-o", "run"]))
    """
    done = python(code, site=site, cwd=site.parent)
    assert done.returncode == 3 and "there is no module 'galore_torch_missing'" in done.stderr, done.stderr
    assert "pip install galore-torch-missing" in done.stderr and "training data" not in done.stdout + done.stderr


def test_other_code_under_the_same_version_is_noticed_with_a_diff(site):
    _, entry = galore(site)
    component = loading.component_of(entry)
    assert len(component.digest) == 64
    record = site / "acme_swift_galore-0.3.1.dist-info" / "RECORD"
    record.write_text(record.read_text(encoding="utf-8").replace("impl.py,sha256=x", "impl.py,sha256=y"), encoding="utf-8")
    loading.digest.cache_clear()
    with pytest.raises(
        PluginError, match=r"version: plan 0\.3\.1, here 0\.3\.1\n +digest: plan \w{16}, here \w{16} +<-- differs"
    ):
        loading.verify(component)


def test_what_installers_write_does_not_change_the_digest(site):
    galore(site)
    before = loading.digest("acme-swift-galore")
    record = site / "acme_swift_galore-0.3.1.dist-info" / "RECORD"
    with record.open("a", encoding="utf-8") as file:
        file.write(
            "../../../bin/x,sha256=abc,12\nacme/__pycache__/impl.cpython-311.pyc,,\nacme_swift_galore-0.3.1.dist-info/INSTALLER,sha256=q,4\n"
        )
    loading.digest.cache_clear()
    assert loading.digest("acme-swift-galore") == before


def test_another_version_or_none_is_noticed(site):
    _, entry = galore(site)
    component = loading.component_of(entry)
    info = site / "acme_swift_galore-0.3.1.dist-info"
    (info / "METADATA").write_text("Name: acme-swift-galore\nVersion: 0.4\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"version: plan 0\.3\.1, here 0\.4 +<-- differs"):
        loading.verify(component)
    info.rename(site / "gone")
    with pytest.raises(PluginError, match="is not installed here"):
        loading.verify(component)


def test_an_editable_install_is_digested_by_its_files(site):
    package, entry = galore(site, direct_url=json.dumps({"url": "file:///x", "dir_info": {"editable": True}}))
    before = loading.component_of(entry).digest
    hashed = hashlib.sha256()
    for file in sorted((site / package).rglob("*.py")):
        hashed.update(f"{package}/{file.name}\0".encode() + file.read_bytes() + b"\0")
    assert before == hashed.hexdigest()
    (site / package / "impl.py").write_text(IMPL + "\n", encoding="utf-8")
    loading.digest.cache_clear()
    assert loading.digest("acme-swift-galore") != before


def test_load_object_follows_dots_and_says_what_is_missing():
    assert loading.load_object("json:JSONDecoder.decode") is json.JSONDecoder.decode
    assert loading.load_object("json") is json
    for dotted in ("json:nope", "no_such_module_at_all:x"):
        with pytest.raises(PluginBroken, match=r"nope|no_such_module_at_all"):
            loading.load_object(dotted)


def test_data_only_components_have_no_implementation():
    with pytest.raises(PluginBroken, match="it is data only"):
        loading.load_impl(Component("model", "qwen3", impl=""))


@pytest.mark.parametrize(
    ("lines", "unmet"),
    [
        (["pydantic>=2"], []),
        (["Pydantic", "pydantic[email]>=2,<99"], []),
        (["pydantic<1"], ["pydantic<1"]),
        (["no-such-dist; python_version < '3'"], []),
        (["not a requirement!"], ["not a requirement!"]),
    ],
)
def test_requirements(lines, unmet):
    assert [u.requirement for u in requirements.unmet(lines)] == unmet


def test_run_time_hooks_are_called_on_the_plugins_of_the_plan_only(site, tmp_path):
    hook = "\n@hookimpl\ndef swift_train_end(metrics):\n    metrics['seen'].append('{name}')\n"
    components = []
    for name in ("one", "two", "three"):
        make_dist(site, TUNER + hook.replace("{name}", name), dist=f"acme-swift-{name}", plugin=name, name=name)
    registry = discover(paths=[str(site)])
    assert [p.status for p in registry.plugins] == ["ok"] * 3
    components = [loading.component_of(registry.find("tuner", name)) for name in ("one", "two", "one")]
    seen: list[str] = []
    hooks.for_components(components).hook.swift_train_end(run_dir=tmp_path, metrics={"seen": seen})
    assert sorted(seen) == ["one", "two"]


@pytest.mark.parametrize("before", [True, False], ids=["collecting", "switched-off-by-the-user"])
def test_the_collector_rests_while_torch_is_imported_and_no_longer(tmp_path, before):
    (tmp_path / "torch.py").write_text("import gc\nseen = gc.isenabled()\nkept = [[] for _ in range(1000)]\n", encoding="utf-8")
    (tmp_path / "light.py").write_text("import gc\n", encoding="utf-8")
    (tmp_path / "heavy.py").write_text("import torch\nfault = None\n", encoding="utf-8")
    (tmp_path / "faulty.py").write_text("import torch\nraise RuntimeError\n", encoding="utf-8")
    program = (
        "import gc, sys\nfrom swift.errors import PluginBroken\nfrom swift.plugins.loading import load_object\n"
        "gc.enable() if BEFORE else gc.disable()\n"
        "load_object('light')\n"
        "assert gc.get_freeze_count() == 0\n"
        "try: load_object(NAME)\n"
        "except PluginBroken: pass\n"
        "import torch\n"
        "assert not torch.seen and gc.isenabled() == BEFORE, (torch.seen, gc.isenabled())\n"
        "assert (gc.get_freeze_count() > 1000) == BEFORE, gc.get_freeze_count()\n"
    )
    for name in ("heavy:fault", "faulty"):
        own = program.replace("BEFORE", str(before)).replace("NAME", repr(name))
        subprocess.run([sys.executable, "-c", own], check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
