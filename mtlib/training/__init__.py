"""Training: the one loop, evaluation, the run store, and checkpoints that survive a crash."""
