"""Policies are plain values."""

from __future__ import annotations

import pytest

from trio_broadway_kafka import Skip, Stop


@pytest.mark.parametrize("policy", [Stop, Skip])
def test_a_policy_is_a_value(policy: type) -> None:
    assert policy() == policy()
    assert hash(policy()) == hash(policy())
    assert repr(policy()) == f"{policy.__name__}()"
    with pytest.raises((AttributeError, TypeError)):  # which one depends on the Python
        policy().attempts = 3


def test_policies_differ() -> None:
    assert Stop() != Skip()
