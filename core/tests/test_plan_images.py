"""Plans of image models of a third party: its loader's spec brings the count, the core knows no family."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from plugin_dists import TUNER, found_in, make_dist, new_site

from swift.api import ModelSpec
from swift.cli.main import main
from swift.errors import PluginBroken
from swift.plan.images import counter
from swift.plan.plan import Plan
from swift.plugins.info import Entry

PHOTO = Path(__file__).parent / "data" / "media" / "1.jpg"
CONFIG = {
    "architectures": ["AcmeSeesForCausalLM"], "model_type": "acme_sees", "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "vocab_size": 300,
    "max_position_embeddings": 4096, "eye": {"tiles": 7},
}  # fmt: skip
DOOR = """
    from swift.api import ModelSpec, hookimpl

    @hookimpl
    def swift_models():
        return [ModelSpec(name="acme-sees", impl="{package}.loader:Sees", architecture="AcmeSeesForCausalLM", summary="a test",
                          generic=GENERIC, image_tokens="{package}.eye:counter")]
"""
EYE = """
    import json

    def counter(folder, *, min_pixels, max_pixels):
        tiles = json.loads((folder / "config.json").read_text()).get("eye", {}).get("tiles")
        return tiles and (lambda height, width: tiles + (max_pixels or 0))
"""


def planned(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    code, said = main(["plan", *flags, "--device", "cpu", "--json"]), capsys.readouterr()
    assert not code, said.err
    found: dict[str, Any] = Plan.from_json(said.out[said.out.index("{") :]).estimate["data"]
    return found


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """A model folder, and two rows with an image each and one with none."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    row = {"query": "<image>what?", "response": "this", "images": [str(PHOTO)]}
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(r) + "\n" for r in (row, row, {"query": "and?", "response": "so"})), encoding="utf-8")
    return ["--model", str(folder), "--dataset", str(rows)]


def test_a_third_partys_family_brings_its_count(tmp_path: Path, monkeypatch, capsys, flags: list[str]) -> None:
    site = new_site(tmp_path, monkeypatch)
    package = make_dist(site, DOOR.replace("GENERIC", "False"), files={"eye.py": EYE})
    data = planned(capsys, *flags)
    assert data["image_tokens"] == 2 * 7 and not any("images" in text for text in data["unknown"])
    assert planned(capsys, *flags, "--max_pixels", "100")["image_tokens"] == 2 * 107
    assert f"{package}.loader" not in sys.modules


def test_a_generic_loader_is_not_asked_about_text_models(tmp_path: Path, monkeypatch, capsys, flags: list[str]) -> None:
    site = new_site(tmp_path, monkeypatch)
    package = make_dist(site, DOOR.replace("GENERIC", "True"), files={"eye.py": EYE})
    assert planned(capsys, *flags)["image_tokens"] == 0 and f"{package}.eye" not in sys.modules
    config = Path(flags[1]) / "config.json"
    config.write_text(json.dumps({**CONFIG, "vision_config": {"depth": 1}}), encoding="utf-8")
    assert planned(capsys, *flags)["image_tokens"] == 2 * 7


def test_images_that_nothing_counts_are_said(tmp_path: Path, monkeypatch, capsys, flags: list[str]) -> None:
    site = new_site(tmp_path, monkeypatch)
    make_dist(site, DOOR.replace("GENERIC", "False").replace(', image_tokens="{package}.eye:counter"', ""))
    config = Path(flags[1]) / "config.json"
    config.write_text(json.dumps({**CONFIG, "vision_config": {"depth": 1}}), encoding="utf-8")
    data = planned(capsys, *flags)
    assert data["image_tokens"] == 0 and "the tokens of images" in data["unknown"]


BROKEN = {
    "absent": (None, "cannot be imported: there is no module"),
    "other-name": ("def count(folder): ...", "has no 'counter'"),
    "torn": ("import nowhere_to_be_found", "there is no module 'nowhere_to_be_found'"),
    "fails": (EYE.replace('.get("eye", {}).get(', '["ear"].get('), "fails: KeyError: 'ear'"),
    "positional": (EYE.replace("*, min_pixels, max_pixels", "size"), "fails: TypeError"),
    "number": ("def counter(folder, **bounds):\n    return 7", "it gives 7; a function (height, width) -> tokens"),
    "later": ("def counter(folder, **bounds):\n    return lambda height, width: height // 0", "fails: ZeroDivisionError"),
    "fraction": ("def counter(folder, **bounds):\n    return lambda height, width: 1.5", "becomes 1.5 tokens"),
    "below-0": ("def counter(folder, **bounds):\n    return lambda height, width: -1", "becomes -1 tokens"),
}
"""Fault -> (the module, words of the message)."""


@pytest.mark.parametrize("fault", BROKEN)
def test_a_count_that_is_broken_is_a_broken_plugin(tmp_path: Path, monkeypatch, flags: list[str], fault: str) -> None:
    text, words = BROKEN[fault]
    package = make_dist(new_site(tmp_path, monkeypatch), files={"eye.py": text} if text else {})
    spec = ModelSpec(name="acme-sees", impl=f"{package}.loader:Sees", image_tokens=f"{package}.eye:counter")
    with pytest.raises(PluginBroken, match=re.escape(words)) as broken:
        counter(Entry(spec, dist="acme-eyes", version="1.2"), Path(flags[1]))(5, 5)  # type: ignore[misc]
    assert "model:acme-sees (acme-eyes 1.2): image_tokens" in broken.value.message and broken.value.fix


def test_a_loader_that_names_no_count_has_none(tmp_path: Path) -> None:
    assert counter(Entry(ModelSpec(name="acme-reads", impl="a:b")), tmp_path) is None


def test_the_plan_of_a_broken_count_says_so(tmp_path: Path, monkeypatch, capsys, flags: list[str]) -> None:
    site = new_site(tmp_path, monkeypatch)
    make_dist(site, DOOR.replace("GENERIC", "False"), files={"eye.py": "def count(folder): ..."})
    code, said = main(["plan", *flags, "--device", "cpu"]), capsys.readouterr()
    assert code == PluginBroken.exit_code
    assert re.search(r"model:acme-sees \(acme-swift-galore 0\.3\.1\): image_tokens: .*has no 'counter'", said.err), said.err


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ('impl="a:b", image_tokens="eye"', "model:galore: image_tokens='eye' is not a dotted path like"),
        ('impl="a:b", image_tokens=len', "is not a dotted path like 'package.module:Name'"),
        ('loader="x", image_tokens="a:b"', "image_tokens is for loaders (impl); an entry of a catalog has"),
    ],
)
def test_a_field_that_names_no_function_of_a_loader_is_refused(tmp_path: Path, monkeypatch, fields: str, reason: str) -> None:
    site = new_site(tmp_path, monkeypatch)
    make_dist(site, TUNER.replace("Tuner", "Model").replace("tuner", "model").replace('impl="{package}.impl:Impl"', fields))
    [plugin] = [p for p in found_in(site).plugins if p.id == "galore"]
    assert plugin.status == "broken" and reason in plugin.reason
