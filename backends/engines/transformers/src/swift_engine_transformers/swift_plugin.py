"""The door of the engine: what it offers, without torch."""

from swift.api import EngineSpec, hookimpl


@hookimpl
def swift_engines():
    return [
        EngineSpec(
            name="transformers",
            aliases=("hf", "pt"),
            impl="swift_engine_transformers.engine:TransformersEngine",
            settings="swift_engine_transformers.settings:TransformersEngineSettings",
            summary="transformers' generate in this process: any architecture it knows, batched, streaming, several adapters",
            requires=("torch>=2.6", "transformers>=5.10"),
            facts={"engine.streaming": True, "engine.multi_adapter": True},
            streaming=True,
            multi_adapter=True,
        )
    ]
