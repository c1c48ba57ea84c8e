from __future__ import annotations

from tests.broker._fixtures import facts
from tests.faults._network import network
from tests.faults._own import own, own_broker
from tests.faults._secure import secure, secure_broker

__all__ = ["facts", "network", "own", "own_broker", "secure", "secure_broker"]
