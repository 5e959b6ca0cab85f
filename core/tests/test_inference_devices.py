"""Which device is taken: by probe and priority, without torch."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass

import pytest

from swift.api import DeviceInfo, DeviceSpec
from swift.errors import ConfigError, PluginNotFound
from swift.plugins.devices import choose_device
from swift.plugins.registry import discover


@dataclass
class Entry:
    spec: DeviceSpec


class Devices:
    """A registry of (name, priority, count); a negative count is a probe that cannot be imported."""

    def __init__(self, *devices: tuple[str, int, int]) -> None:
        probes = types.ModuleType("swift_test_probes")
        sys.modules["swift_test_probes"] = probes
        self.all = []
        for name, priority, count in devices:
            setattr(probes, name, lambda count=count: DeviceInfo(count=count))
            probe = f"swift_test_probes:{name}" if count >= 0 else "swift_test_no_such_module:probe"
            self.all.append(Entry(DeviceSpec(name=name, priority=priority, probe=probe)))

    def entries(self, kind: str) -> list[Entry]:
        return self.all

    def find(self, kind: str, name: str) -> Entry:
        found = [e for e in self.all if e.spec.name == name]
        if not found:
            raise PluginNotFound(name)
        return found[0]


def test_auto_takes_the_present_device_of_the_highest_priority() -> None:
    assert choose_device(Devices(("cpu", 0, 1), ("gpu", 9, 2)))[0].spec.name == "gpu"
    assert choose_device(Devices(("cpu", 0, 1), ("gpu", 9, 0)))[0].spec.name == "cpu"
    assert choose_device(Devices(("cpu", 0, 1), ("gpu", 9, 2)), "cpu")[1] == DeviceInfo(count=1)


def test_a_broken_probe_hurts_auto_only_where_nothing_else_is_there() -> None:
    assert choose_device(Devices(("cpu", 0, 1), ("gpu", 9, -1)))[0].spec.name == "cpu"
    with pytest.raises(ConfigError, match="gpu: .*cannot be imported"):
        choose_device(Devices(("gpu", 9, -1)))


def test_an_absent_device_is_refused_with_one_that_is_there() -> None:
    with pytest.raises(ConfigError, match="shows none") as error:
        choose_device(Devices(("cpu", 0, 1), ("gpu", 9, 0)), "gpu")
    assert "--device cpu" in error.value.fix
    with pytest.raises(PluginNotFound):
        choose_device(Devices(("cpu", 0, 1)), "tpu")


def test_every_machine_has_a_device() -> None:
    entry, info = choose_device(discover())
    assert info.count >= 1 and entry.spec.impl
