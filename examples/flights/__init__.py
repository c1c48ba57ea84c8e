"""A year of real flights through a pipeline; see `pipeline` first, and ../README.md."""
