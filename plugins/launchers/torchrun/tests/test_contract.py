"""The public contract, from swift.testing."""

from swift.testing import contract

TestTorchrun = contract("launcher:torchrun")
