from swift.testing import contract

TestTransformers = contract("model:transformers")
TestLlama = contract("model:transformers", architecture="llama")
TestMistral = contract("model:transformers", architecture="mistral")
