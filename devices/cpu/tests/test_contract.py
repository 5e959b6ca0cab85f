from swift.testing import contract

TestCpu = contract("device:cpu")
