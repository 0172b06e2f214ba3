"""Says how tests start a local cluster: closed where the system has namespaces, else on the machine's own network."""

from zoo.training.network_namespace import own_network


def cluster_options():
    """Returns what `local_cluster.launch` needs to start here."""
    with own_network() as inside:
        return {"open_ports": inside is None}
