"""The public contract, from swift.testing."""

from swift.testing import contract

TestFull = contract("tuner:full")
