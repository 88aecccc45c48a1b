"""What a machine has (facts, found by probes) and what follows from it for training (findings)."""
