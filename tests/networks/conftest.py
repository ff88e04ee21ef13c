import pytest
import torch
from tiny import make_config


@pytest.fixture
def config():
    return make_config()


@pytest.fixture(autouse=True)
def _double_and_seeded():
    """Everything in float64, so that a comparison with the reference can be tight."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
