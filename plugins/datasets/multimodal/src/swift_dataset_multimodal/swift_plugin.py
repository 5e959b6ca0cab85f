"""The door: catalog.json as specs. samples.jsonl holds a row of ours for each, by which the tests check columns and tasks."""

from swift.api import DatasetSpec, hookimpl


@hookimpl
def swift_datasets() -> list[DatasetSpec]:
    return DatasetSpec.catalog(__file__, sample="swift_dataset_multimodal:samples.jsonl")
