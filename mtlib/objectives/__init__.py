"""What is minimised: task losses, divergences between outputs, penalties and the ranking loss."""
