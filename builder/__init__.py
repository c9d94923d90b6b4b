"""What happens: processes, namespaces, network, terminal."""
