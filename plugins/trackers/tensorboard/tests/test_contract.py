"""The public contract, from swift.testing."""

from swift.testing import contract

TestTensorboard = contract("tracker:tensorboard")
