"""The door of the exporter: what it offers, without torch."""

from swift.api import ExporterSpec, hookimpl


@hookimpl
def swift_exporters():
    return [
        ExporterSpec(
            name="merged",
            aliases=("hf", "safetensors"),
            impl="swift_exporter_merged.merged:MergedExporter",
            settings="swift_exporter_merged.settings:MergedSettings",
            summary="Adapter folded into the base: a standard transformers folder, proved by the KL of its logits",
            requires=("torch>=2.6", "transformers>=5.10", "safetensors>=0.4"),
        )
    ]
