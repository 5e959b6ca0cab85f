from swift.testing import contract

TestLlama31 = contract("model:llama-3.1-8b")
