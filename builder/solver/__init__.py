"""From a graph to layers: keys, lookups, running, recording."""
