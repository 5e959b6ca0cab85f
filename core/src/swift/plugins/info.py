"""What discovery finds: plugins and their components. Plain values; nothing is imported to build them from the index."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from swift.api.specs import Spec

FATAL_IF_STRICT = ("broken", "incompatible", "crashed", "untrusted")


class PluginInfo(NamedTuple):
    """One entry point of the group `swift.plugins`.

    Args:
        id: The entry point's key.
        dist, version: The distribution that brings it.
        module: Its descriptor module.
        source: Where it was installed from: "index", "editable /path", "git+https://...@commit", "file:///...".
        status: ok | disabled | broken | incompatible | crashed | untrusted.
        reason: Why it is not ok; for an ok plugin, a remark or "".
        fix: What to type.
        components: Names of what it offers, as `kind:name`.
        load_ms: CPU milliseconds that its descriptor took when the index was built.
        api: Plugin API that it was written for.
        file: The descriptor file, "" where it could not be found.
    """

    id: str
    dist: str
    version: str
    module: str
    source: str = ""
    status: str = "ok"
    reason: str = ""
    fix: str = ""
    components: tuple[str, ...] = ()
    load_ms: float = 0.0
    api: str = ""
    file: str = ""

    @property
    def origin(self) -> str:
        return f"{self.dist} {self.version}"

    def describe(self) -> str:
        """The paragraph that a user sees for a plugin that is not usable."""
        text = f"plugin {self.id!r} ({self.origin}, {self.module}) is {self.status}: {self.reason}"
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class Entry:
    """One component on offer. From the index it is only names and data; `spec` is built when it is asked for.

    Args:
        spec: The spec, or its data as the index keeps it (then `kind` says which).
        plugin: Id of the plugin.
        dist, version, source: As in `PluginInfo`.
    """

    __slots__ = ("_spec", "data", "dist", "kind", "name", "plugin", "source", "version")

    def __init__(
        self,
        spec: Spec | Mapping[str, Any],
        plugin: str = "",
        dist: str = "",
        version: str = "",
        source: str = "",
        *,
        kind: str = "",
    ) -> None:
        if isinstance(spec, Mapping):
            self._spec: Spec | None = None
            self.data: Mapping[str, Any] = spec
            self.kind, self.name = kind, str(spec["name"])
        else:
            self._spec, self.kind, self.name = spec, spec.kind, spec.name
            self.data = spec.to_dict()
        self.plugin, self.dist, self.version, self.source = plugin, dist, version, source

    @property
    def spec(self) -> Any:
        """A subclass of `swift.api.Spec`, according to the kind."""
        if self._spec is None:
            self._spec = importlib.import_module("swift.api.specs").KINDS[self.kind].from_dict(self.data)
        return self._spec

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def qualified(self) -> str:
        return f"{self.dist}/{self.kind}:{self.name}"

    @property
    def origin(self) -> str:
        return f"{self.dist} {self.version}"

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(self.data.get("aliases", ()))

    @property
    def summary(self) -> str:
        return str(self.data.get("summary", ""))

    def __repr__(self) -> str:
        return f"Entry({self.qualified}, {self.version})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str, str, str]:
        return self.qualified, self.version, self.plugin
