"""The application before a worker of this process: all of the service but Ray."""

import asyncio

import httpx
import pytest

from stmd_serving.app import build_app
from stmd_serving.catalogue import opened
from stmd_serving.limits import Limits
from stmd_serving.worker import Worker


@pytest.fixture(scope="session")
def served(digits_of_any_m):
    return opened(["digits", "mnist", "mixture2d", str(digits_of_any_m)])


@pytest.fixture(scope="session")
def worker(served):
    return Worker(served, threads=1)


@pytest.fixture
def client(worker, served):
    """``client(*requests)`` sends requests (method, path, options) at the same time; their answers."""

    def send(*requests, limits=None, token=None, engine=worker, headers=None, at_once=1):
        async def together():
            app = build_app(engine, served, limits or Limits(), at_once, token)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as inside:
                sent = [inside.request(method, path, **options) for method, path, options in requests]
                return await asyncio.gather(*sent)

        return asyncio.run(together())

    return send
