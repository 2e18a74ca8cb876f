"""A server on a leash: `python -m serving.leashed mlxspec|mlx_lm ARGUMENTS`.

Both servers start here, with the same BLAS. Standard input is the leash: it closes when the bench
ends, however it ends, and then the server is told to.
"""

import os
import signal
import sys
import threading


def main() -> None:
    """Serve until signalled, or until standard input closes."""
    name, *arguments = sys.argv[1:]
    threading.Thread(target=_hold_leash, daemon=True).start()
    sys.argv = [name, *arguments]
    if name == "mlxspec":
        from mlxspec import cli

        cli.main()
    else:
        from mlxspec.model.backend import prepare

        prepare()  # before mlx is first imported, which the next line does
        from mlx_lm import server

        server.main()


def _hold_leash() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
