"""The one error of the bench: what its user reads before exit status 1."""


class BenchError(Exception):
    """A server that did not start, broke off, or answered wrongly; the text says which."""
