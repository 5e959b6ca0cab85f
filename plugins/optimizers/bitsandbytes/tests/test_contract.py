"""The public contract, from swift.testing."""

import pytest

from swift.testing import contract

pytest.importorskip("bitsandbytes")

TestAdamw8bit = contract("optimizer:adamw_8bit")
TestPagedAdamw8bit = contract("optimizer:paged_adamw_8bit")
TestPagedAdamw32bit = contract("optimizer:paged_adamw_32bit")
TestLion8bit = contract("optimizer:lion_8bit")
TestPagedLion8bit = contract("optimizer:paged_lion_8bit")
