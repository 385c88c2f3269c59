"""What must hold after every run: charged is served, refunded or credited, once, and all books say the same."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from rail402.client.records import PurchaseState
from rail402.protocol.charge import CUT_OFFS, RERUNS, Delivery, PaymentState
from tests.crashes.run import Facts
from tests.crashes.scenarios import WINDOW

__all__ = ["outcome", "violations"]

_CLOSED: Final = {PaymentState.SETTLED, PaymentState.RELEASED, PaymentState.REJECTED, PaymentState.REFUNDED}


def violations(facts: Facts) -> list[str]:
    """Say what does not hold."""
    if facts.scenario.uses > 1:
        return [*_money(facts), *_charges(facts), *_journal(facts), *_uses(facts)]
    return [*_money(facts), *_charges(facts), *_journal(facts), *_goods(facts), *_replays(facts)]


def _money(facts: Facts) -> Iterator[str]:
    books = facts.books
    settled = sum(charge.amount for charge in facts.charges if charge.payment is PaymentState.SETTLED)
    if books.paid != books.got:
        yield f"the payers paid {books.paid}, and the shop got {books.got}"
    if books.held:
        yield f"{books.held} are held or under way in the end"
    if books.got != settled:
        yield f"the shop got {books.got}, and its charges say {settled}"


def _charges(facts: Facts) -> Iterator[str]:
    for charge in facts.charges:
        if charge.payment not in _CLOSED or charge.delivery is Delivery.RUNNING:
            yield f"{charge.id} is left {charge.payment} ({charge.operation}), {charge.delivery}"
        runs, allowed = facts.runs.get(charge.id, 0), charge.attempt + charge.reruns
        if charge.is_pass:  # each use that failed, or died with its server, ran again
            allowed += charge.uses - 1 + facts.failed_runs + facts.kills
        if runs > allowed or charge.reruns > RERUNS + min(charge.cut_off, CUT_OFFS):
            yield f"the handler ran {runs} times for {charge.id}: attempt {charge.attempt}, {charge.reruns} reruns"
    if unknown := set(facts.runs) - {charge.id for charge in facts.charges}:
        yield f"the handler ran for {unknown}, of which the store knows nothing"


def _journal(facts: Facts) -> Iterator[str]:
    moved = [each for each in facts.charges if each.payment in (PaymentState.SETTLED, PaymentState.REFUNDED)]
    settled = [each for each in moved if each.payment is PaymentState.SETTLED]
    spent = [each for each in facts.purchases if each.state is PurchaseState.COMMITTED]
    for purchase in facts.purchases:
        if purchase.is_open:
            yield f"{purchase.id} is left {purchase.state}: {purchase.detail}"
    if not len(settled) <= len(spent) <= len(moved):
        yield f"{len(settled)} charges are settled and {len(moved)} were, and the journals say {len(spent)}"
    if len(settled) == len(spent) and spent:
        cost = sum((each.cost.amount for each in spent if each.cost is not None), Decimal(0))
        exponent = settled[0].offer.exponent
        if cost.scaleb(exponent) != facts.books.paid + facts.books.fees:
            yield f"the journals say {cost}, and {facts.books} moved"


def _goods(facts: Facts) -> Iterator[str]:
    if facts.scenario.never_serves:
        if facts.books.paid:
            yield f"nothing was sold, and {facts.books.paid} were paid"
        return
    wanted, bodies = facts.plan.clients, [row["body"] for row in facts.received]
    if len(facts.received) < wanted and not facts.scenario.is_stuck(facts.away):
        yield f"{len(facts.received)} of {wanted} agents were served"
    settled = [charge for charge in facts.charges if charge.payment is PaymentState.SETTLED]
    unused = _came_late(facts)
    if len(settled) > len(facts.received) + facts.in_window + len(unused):
        yield f"{len(settled)} purchases were charged for {len(facts.received)} that were served"
    for charge in settled:
        if not facts.in_window and charge.id not in unused and not any(charge.id in body for body in bodies):
            yield f"{charge.id} was charged, and nobody has what it bought"
    for body in bodies:
        if not any(charge.id in body for charge in settled):
            yield f"served and not charged: {body!r}"


def _uses(facts: Facts) -> Iterator[str]:
    """A pass gives as many answers as it is good for, to who bought it, whatever dies; and none that is not repeated
    to anybody else."""
    bodies = [row["body"] for row in facts.received]
    if len(set(bodies)) != len(bodies) or len(bodies) != facts.plan.clients * facts.scenario.uses:
        yield f"{facts.plan.clients} passes for {facts.scenario.uses} requests gave {bodies}"
    for charge in (each for each in facts.charges if each.payment is PaymentState.SETTLED):
        served = sum(charge.id in body for body in bodies)
        if not charge.uses == charge.uses_taken == served:
            yield f"{charge.id} served {served} of {charge.uses} uses, and says that {charge.uses_taken} are taken"
    for shown in facts.shown:
        if shown.status == 200 and (shown.late or not shown.is_replay or shown.body not in bodies):
            yield f"shown again, a pass that is {'over' if shown.late else 'used up'} served {shown.body!r}"


def _came_late(facts: Facts) -> set[str]:
    """The charges whose answer was kept for who paid, and who came for it when that time was over."""
    bodies = " ".join(row["body"] for row in facts.received)
    settled = [each for each in facts.charges if each.payment is PaymentState.SETTLED and each.id not in bodies]
    return {each.id for each in settled if each.delivery is Delivery.STORED and facts.away > WINDOW}


def _replays(facts: Facts) -> Iterator[str]:
    bodies = {row["body"] for row in facts.received}
    stored = [each for each in facts.charges if each.delivery is Delivery.STORED]
    for shown in facts.shown:
        if shown.status == 200 and not any(charge.id in shown.body for charge in stored):
            yield f"shown again, a payment that bought nothing was served: {shown.body!r}"
        if shown.is_replay and not facts.in_window and shown.body not in bodies:
            yield f"shown again, a payment got another answer than the first time: {shown.body!r}"


def outcome(facts: Facts) -> str:
    """Say in a word how it ended for the agent that was there first."""
    states = {charge.payment for charge in facts.charges}
    if PaymentState.REFUNDED in states:
        return "refunded"
    if facts.scenario.never_serves:
        return "released"
    settled = [charge for charge in facts.charges if charge.payment is PaymentState.SETTLED]
    if facts.in_window:
        return "bought anew: had it in hand"
    if _came_late(facts):
        return "came when the window was over"
    if len(facts.purchases) > facts.plan.clients:
        return "released, bought anew"
    if any(charge.reruns for charge in settled):
        return "rerun"
    if any(charge.attempt > 1 for charge in settled):
        return "released, claimed again"
    if not facts.received:
        return "released"
    return "stored answer" if any(row["replayed"] for row in facts.received) else "served"
