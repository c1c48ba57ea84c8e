"""Dead letters: read them, and send them back to where they came from.

What `DeadLetter` has sent to a topic is read by `read`, and sent back by `redrive`. On the
command line: ``python -m trio_broadway_kafka dead-letters --help``.
"""

from trio_broadway_kafka.dead_letters._letter import Letter, Selection
from trio_broadway_kafka.dead_letters._reader import Place
from trio_broadway_kafka.dead_letters._reading import Letters, read
from trio_broadway_kafka.dead_letters._redriving import Redriven, redrive

__all__ = ["Letter", "Letters", "Place", "Redriven", "Selection", "read", "redrive"]
