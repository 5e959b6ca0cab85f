from swift.api import hookimpl
from swift_model_mistral.catalog import MODELS


@hookimpl
def swift_models():
    return list(MODELS)
