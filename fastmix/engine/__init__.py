"""What a run does, from its config to its weights: data, step, loop, validation, checkpoints."""
