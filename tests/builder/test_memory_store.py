"""The in-memory content store keeps the contract, so that tests with it mean something."""

from __future__ import annotations

import pytest
from contract.content_store import ContentStoreContract
from support.memory_store import MemoryContent


class TestMemoryContent(ContentStoreContract):
    """The fake under the suite."""

    @pytest.fixture
    def store(self):
        return MemoryContent()
