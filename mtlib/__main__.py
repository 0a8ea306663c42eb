"""`python -m mtlib` is the `mtlib` command."""

from mtlib.cli import app

app(prog_name="mtlib")
