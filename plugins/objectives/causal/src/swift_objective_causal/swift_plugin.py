"""Pre-training and instruction tuning."""

from swift.api import ObjectiveSpec, hookimpl


@hookimpl
def swift_objectives():
    return [
        ObjectiveSpec(
            name="sft",
            impl="swift_objective_causal.objectives:SFT",
            settings="swift_objective_causal.settings:SFTSettings",
            summary="Instruction tuning: predict the assistant's turns of conversations.",
            chat_template=True,
            columns=("messages",),
            verbs=("sft",),
        ),
        ObjectiveSpec(
            name="pt",
            impl="swift_objective_causal.objectives:Pretrain",
            settings="swift_objective_causal.settings:PretrainSettings",
            summary="Pre-training: predict every token of plain text.",
            aliases=("pretrain",),
            chat_template=False,
            columns=("text", "messages"),
            verbs=("pt",),
        ),
    ]
