"""The public contract, from swift.testing."""

from swift.testing import contract

TestAdamw = contract("optimizer:adamw")
TestSgd = contract("optimizer:sgd")
TestAdafactor = contract("optimizer:adafactor")
