from swift.testing import contract

TestHuggingface = contract("hub:huggingface")
