"""Which device a run takes, asked without torch."""

from __future__ import annotations

from typing import Any

from swift.api import DeviceInfo
from swift.errors import ConfigError, PluginError
from swift.plugins.loading import load_object


def probe(entry: Any) -> DeviceInfo:
    """What is there. A device whose spec names no probe counts as one present device."""
    info: DeviceInfo | None = load_object(entry.spec.probe)() if entry.spec.probe else DeviceInfo(count=1)
    return info or DeviceInfo(count=0)


def choose_device(registry: Any, name: str = "auto") -> tuple[Any, DeviceInfo]:
    """(entry, what its probe found). `auto` takes the present device of the highest priority.

    Raises:
        ConfigError: The named device is absent, or none is present.
        PluginNotFound: No installed plugin offers it.
    """
    entries = sorted(registry.entries("device"), key=lambda e: -e.spec.priority)
    if name == "auto":
        faults = []
        for entry in entries:
            try:
                info = probe(entry)
            except PluginError as error:  # one that is merely installed and broken hurts nothing else
                faults.append(f"{entry.spec.name}: {error.message}")
                continue
            if info.count:
                return entry, info
        reasons = "".join(f"\n  {fault}" for fault in faults)
        raise ConfigError(
            f"no device is present; installed: {', '.join(e.spec.name for e in entries) or 'none'}{reasons}",
            fix="pip install swift-llm-device-cpu",
        )
    entry = registry.find("device", name)
    info = probe(entry)
    if not info.count:
        present = [e.spec.name for e in entries if e is not entry and _is_present(e)]
        raise ConfigError(
            f"device {name} was asked for, but this machine shows none",
            fix=f"--device {present[0] if present else 'auto'}; `swift doctor` tells what was found",
        )
    return entry, info


def _is_present(entry: Any) -> bool:
    try:
        return bool(probe(entry).count)
    except PluginError:
        return False
