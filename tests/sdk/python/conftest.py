"""Connects every test to the server named by EVERLOG_ADDRESS."""

import os

import pytest_asyncio
from temporalio.client import Client


@pytest_asyncio.fixture
async def client() -> Client:
    """A client of the namespace `default`."""
    return await Client.connect(os.environ["EVERLOG_ADDRESS"])
