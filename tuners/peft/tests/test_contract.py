"""The public contract, from swift.testing."""

from swift.testing import contract

TestLora = contract("tuner:lora")
TestRslora = contract("tuner:rslora")
TestDora = contract("tuner:dora")
TestPissa = contract("tuner:pissa")
TestLoraPlus = contract("tuner:lora-plus")
TestVera = contract("tuner:vera")
TestLoha = contract("tuner:loha")
TestLnTuning = contract("tuner:ln_tuning")
