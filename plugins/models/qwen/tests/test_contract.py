from swift.testing import contract

TestQwen3 = contract("model:qwen3-8b")
