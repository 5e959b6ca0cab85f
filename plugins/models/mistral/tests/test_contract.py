from swift.testing import contract

TestMistral7b = contract("model:mistral-7b-v0.3")
