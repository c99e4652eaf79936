"""The instruction sets that the op tests run on."""

import pytest

from dom2_fast import backend

ISAS = backend.isas_runnable()


@pytest.fixture(params=ISAS or ["none"])
def isa(request):
    """Runs the test once per instruction set that this machine has."""
    if request.param == "none":
        pytest.skip(f"no compiled extension: {backend.reason()}")
    before = backend.isa_active()
    backend.set_isa(request.param)
    yield request.param
    backend.set_isa(before)
