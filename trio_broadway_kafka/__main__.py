"""``python -m trio_broadway_kafka``: see ``--help``."""

import sys

from trio_broadway_kafka._cli import main

if __name__ == "__main__":
    sys.exit(main())
