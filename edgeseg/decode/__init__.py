"""From the outputs of a network to Instances, one module per kind of network."""
