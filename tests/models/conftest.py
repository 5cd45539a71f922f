import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """For models as small as these, threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
