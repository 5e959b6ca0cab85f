"""The public contract, from swift.testing."""

from swift.testing import contract

TestSft = contract("objective:sft")
TestPt = contract("objective:pt")
