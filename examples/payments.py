"""Payments: tried again where that may help, set aside where it can't, and each booked once.

    python examples/payments.py 127.0.0.1:9092 payments

Records are JSON such as {"id": 7, "account": "A-1", "cents": 1250}, keyed by account. For each
payment that the bank takes, a receipt goes to the topic payments-receipts, in one transaction
with the offset. What the bank declines, and what can't be read, goes to payments-dead at once;
what the bank does not answer is tried again, and goes there after the fifth attempt. Another
account's payments do not wait for it. If more than a hundred go there in a row, something is
wrong with all of them: it stops.

    python -m trio_broadway_kafka dead-letters list payments-dead --bootstrap 127.0.0.1:9092

Ctrl-C ends it well.
"""

import json
import logging
import sys
from collections import Counter

import trio

from trio_broadway_kafka import (
    DeadLetter,
    FailurePolicy,
    Message,
    Output,
    Retry,
    Stages,
    run_pipeline,
)


class NoPayment(Exception):
    """A record that can't be read."""


class Declined(Exception):
    """The bank's last word."""


class BankUnavailable(Exception):
    """No answer: nobody knows yet."""


class Bank:
    """Stands for a bank. Accounts that begin with ``slow-`` get no answer at first."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()

    async def pay(self, number: int, account: str, cents: int) -> str:
        """Pay; the number makes a repetition harmless.

        Raises:
            Declined: it will not.
            BankUnavailable: it did not answer.
        """
        self.calls[number] += 1
        await trio.sleep(0.01)
        if account.startswith("slow-") and self.calls[number] < 3:
            raise BankUnavailable("no answer")
        if account.startswith("away-"):
            raise BankUnavailable("no answer")
        if cents > 100_000:
            raise Declined("more than this account may spend")
        return f"R{number}"


def read(message: Message) -> tuple[int, str, int]:
    try:
        payment = json.loads(message.value or b"")
        return int(payment["id"]), str(payment["account"]), int(payment["cents"])
    except (ValueError, LookupError, TypeError):  # whose texts may show the payment
        raise NoPayment("not a payment as of version 1") from None


def stages(receipts: str, dead_letters: str) -> Stages:
    bank = Bank()
    aside = DeadLetter(dead_letters, max_consecutive=100)
    again = Retry(attempts=5, wait_initial=0.1, wait_max=2, then=aside)

    async def pay(message: Message) -> None:
        number, account, cents = read(message)
        receipt = await bank.pay(number, account, cents)
        message.produce(
            receipts,
            key=message.key,
            value=json.dumps({"payment": number, "receipt": receipt}).encode(),
        )

    def on_failure(message: Message) -> FailurePolicy:
        return again if isinstance(message.failure, BankUnavailable) else aside

    return Stages(handle_message=pay, on_failure=on_failure, handler_timeout=10)


async def main(bootstrap: str, topic: str) -> None:
    await run_pipeline(
        kafka={"bootstrap.servers": bootstrap, "group.id": f"pay-{topic}"},
        topics=[topic],
        stages=stages(f"{topic}-receipts", f"{topic}-dead"),
        # One name for each process that runs beside others, the same after a restart.
        output=Output(transactional_id=f"pay-{topic}-1"),
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    trio.run(main, *sys.argv[1:])
