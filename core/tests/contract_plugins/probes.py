"""Probes of the devices."""

from __future__ import annotations

import importlib

from swift.api import DeviceInfo


def present() -> DeviceInfo:
    return DeviceInfo(count=1, names=("a processor",), memory=1 << 30)


def absent() -> None:
    return None


def nothing_there() -> DeviceInfo:
    return DeviceInfo(count=0)


def heavy() -> DeviceInfo:
    importlib.import_module("torch")
    return present()


def raises() -> DeviceInfo:
    raise OSError("no driver library")
