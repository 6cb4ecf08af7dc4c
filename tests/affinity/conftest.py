"""Few sizes of galleries, so that few programs are compiled."""

import pytest

from saai_jax.affinity import graph


@pytest.fixture(autouse=True, scope="module")
def few_sizes():
    """Galleries of 60 images fill their arrays, others leave more of them empty than they do outside of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "rounded", lambda n: -(-n // 60) * 60)
        yield
