"""Settings that were given and that nothing reads, because what they belong to is off. Left of the torch line."""

from __future__ import annotations

from swift.plan.draft import SETTINGS, Draft
from swift.plugins.conditions import Condition, parse


def report_unread(draft: Draft) -> None:
    """A note for each field that was given another value than its default, where none of the conditions holds that
    `swift.config.sections.read_where` declares."""
    sections, provenance = draft.resolved.sections, draft.resolved.provenance
    given = {f"{name}.{key}": getattr(section, key) for name, section in sections.items() for key in type(section).model_fields}
    for name, section in sections.items():
        for key, field in type(section).model_fields.items():
            path, extra = f"{name}.{key}", field.json_schema_extra
            conditions = [parse(str(text)) for text in extra.get("x-read-where", ())] if isinstance(extra, dict) else []
            origin = provenance.get(path, "default")
            if not conditions or origin == "default" or given[path] == field.get_default(call_default_factory=True):
                continue
            if not any(condition.holds(given) for condition in conditions):
                draft.problem(
                    SETTINGS, f"{path} = {given[path]} ({origin}) changes nothing: it is read where "
                    f"{' or '.join(map(_words, conditions))}", fix="leave it out, or change that", level="unverified",
                )  # fmt: skip


def _words(condition: Condition) -> str:
    if condition.op in ("", "not"):
        return f"{condition.fact} is {'not ' * bool(condition.op)}set"
    values = condition.value if condition.op == "in" else [condition.value]
    return f"{condition.fact} {'is' if condition.op in ('==', 'in') else condition.op} {' or '.join(map(str, values))}"
