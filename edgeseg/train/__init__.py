"""Training of small networks: data, matching, losses, the loop."""
