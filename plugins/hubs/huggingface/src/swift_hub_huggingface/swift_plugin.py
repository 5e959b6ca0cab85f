from swift.api import HubSpec, hookimpl


@hookimpl
def swift_hubs():
    return [
        HubSpec(
            name="huggingface",
            impl="swift_hub_huggingface.hub:HuggingFaceHub",
            summary="Models and datasets of huggingface.co, or of a mirror (HF_ENDPOINT)",
            aliases=("hf",),
            prefix="hf",
            priority=10,
            requires=("huggingface_hub>=1.0,<3",),
        )
    ]
