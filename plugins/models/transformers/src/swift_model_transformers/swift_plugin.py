from swift.api import ModelSpec, hookimpl


@hookimpl
def swift_models():
    return [
        ModelSpec(
            name="transformers",
            impl="swift_model_transformers.loader:TransformersLoader",
            image_tokens="swift_model_transformers.image_tokens:counter",
            generic=True,
            summary="Any decoder-only language model that transformers knows, from a local folder",
            requires=("torch>=2.6", "transformers>=5.10,<6"),
        )
    ]
