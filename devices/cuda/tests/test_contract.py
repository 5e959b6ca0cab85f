from swift.testing import contract

TestCuda = contract("device:cuda")
