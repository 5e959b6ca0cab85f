"""The public contract, from swift.testing."""

from swift.testing import contract

TestSingle = contract("parallel:single")
TestDdp = contract("parallel:ddp")
