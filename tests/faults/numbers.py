"""Numbers out of their range, and values of the wrong kind: one line with key, value and range."""

from __future__ import annotations

from faults.harness import Fault, nothing


def train(setting: str, *says: str) -> Fault:
    return Fault(setting, nothing, f"fastmix.train {{config}} '{setting}'", says)


FAULTS = [
    Fault("a good run", nothing, "fastmix.train {config} out=a", ("done: top-1",), 0),
    Fault("a good dry run", nothing, "fastmix.train {config} --dry-run", (), 0),
    train("epochs=0", "epochs is 0", "at least 1"),
    train("epochs=1.5", "epochs is 1.5", "a whole number"),
    train("epochz=1", "epochz", "did you mean 'epochs'"),
    train("batch_total=1000", "1000"),
]
