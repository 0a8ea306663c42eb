"""How the objective is minimised, and never lost: the atomic store, runs, evaluation and the one loop."""
