"""A Ray cluster for tests, in this machine."""

from collections.abc import Iterator

import pytest


def two_nodes() -> Iterator[str]:
    """Two nodes, each with its own scheduler, resources and one CPU; yields their address, and stops them."""
    Cluster = pytest.importorskip("ray.cluster_utils").Cluster  # noqa: N806

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()
