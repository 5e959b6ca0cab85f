from swift.api import hookimpl
from swift_model_llama.catalog import MODELS


@hookimpl
def swift_models():
    return list(MODELS)
