"""How the command line shows charges. Nothing in a charge is secret but the digests of secrets, which are left out."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from rail402.cli.show import clean, in_sat, relative, show_facts, show_rows
from rail402.money import Money
from rail402.protocol.charge import Charge, PaymentState
from rail402.server.report import Report, is_open

__all__ = ["facts_of", "show_charge", "show_list", "show_report", "sum_of"]

_STYLES: Final = {
    PaymentState.SETTLED: "green",
    PaymentState.REFUNDED: "cyan",
    PaymentState.REJECTED: "red",
    PaymentState.UNKNOWN: "yellow",
    PaymentState.HELD: "yellow",
}
_CLAIMS: Final = {"iat": "issued_at", "iss": "issuer", "jti": "charge", "v": "version"}
_RECEIPTS: Final = ("receipt", "refund_receipt")


def sum_of(charge: Charge) -> str:
    """Return what was taken, or is to be, for people."""
    return str(Money.from_atomic(charge.amount, charge.offer.exponent, charge.offer.currency))


def facts_of(charge: Charge, *, whole: bool = True) -> dict[str, Any]:
    """Return what is known of a charge as JSON has it.

    Args:
        whole: with its keys, what the rail remembers, and its signed receipts; otherwise a line of a list.
    """
    offer = charge.offer
    facts: dict[str, Any] = {
        "charge": charge.id,
        "created_at": charge.created_at,
        "rail": offer.rail,
        "network": offer.network,
        "sum": sum_of(charge),
        "payment": charge.payment.value,
        "operation": None if charge.operation is None else charge.operation.value,
        "delivery": charge.delivery.value,
        "method": charge.order.method,
        "url": charge.order.url,
    }
    if not whole:
        return facts
    facts |= {
        "price": str(charge.price),
        "asset": offer.asset,
        "amount": str(charge.amount),
        "mechanism": offer.mechanism,
        "flow": offer.flow.value,
        "dialect": charge.dialect,
        "payee": offer.payee,
        "payer": charge.payer,
        "transaction": charge.transaction,
        "code": charge.code,
        "settled_at": charge.settled_at,
        "valid_until": charge.valid_until,
        "uses": charge.uses,
        "uses_taken": charge.uses_taken,
        "attempt": charge.attempt,
        "tries": charge.tries,
        "reruns": charge.reruns,
        "asked_at": charge.asked_at,
        "looks": charge.looks,
        "last_word": charge.last_word,
        "next_look_at": charge.lease_until if is_open(charge) else None,
        "refund_due_at": charge.refund_due_at,
        "refunded_at": charge.refunded_at,
        "refund_transaction": charge.refund_transaction,
        "sandbox": charge.sandbox,
        "version": charge.version,
        "keys": list(charge.keys),
        "rail_state": dict(charge.rail_state),
    }
    return facts | {name: getattr(charge, name) for name in _RECEIPTS}


def show_list(console: Console, charges: Sequence[Charge], *, now: int, following: str | None) -> None:
    """Print charges, a row each."""
    if not charges:
        console.print("no charge fits")
        return
    rows = []
    for charge in charges:
        state = charge.payment.value if charge.operation is None else f"{charge.payment} ({charge.operation})"
        rows.append(
            [
                Text(charge.id),
                Text(relative(charge.created_at - now)),
                Text(in_sat(sum_of(charge))),
                Text(state, _STYLES.get(charge.payment, "")),
                Text(clean(charge.offer.rail, 40)),
                Text(charge.delivery.value),
                Text(clean(f"{charge.order.method} {charge.order.url}", 120)),
            ]
        )
    show_rows(console, ("charge", "when", "sum", "payment", "rail", "answer", "for"), rows, below=3)
    if following is not None:
        console.print(f"there are more: add --before {following}", soft_wrap=True)


def show_charge(console: Console, charge: Charge, *, now: int) -> None:
    """Print all that is known of a charge, a line each."""
    facts = facts_of(charge)
    facts |= {name: in_sat(facts[name]) for name in ("sum", "price")}
    receipts = {name: _claims(facts.pop(name)) for name in _RECEIPTS}
    show_facts(console, charge.id, facts, now=now, style=_STYLES.get(charge.payment, "white"))
    for name, claims in receipts.items():
        if claims is not None:
            show_facts(console, f"{name.replace('_', ' ')}, signed; its text is in --json", claims, now=now)


def _claims(token: str | None) -> dict[str, Any] | None:
    """Return what a record of our own store says, which nobody but us has signed."""
    if token is None:
        return None
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return {_CLAIMS.get(name, name): value for name, value in claims.items()}


def show_report(console: Console, report: Report, *, now: int) -> None:
    """Print what the reconciler did, and what stays open."""
    console.print(f"looked at {report.looked_at}, closed {report.closed}, {len(report.open)} still open")
    for left in report.open:
        facts = {
            "operation": left.operation,
            "rail": f"{left.rail} ({left.network})",
            "open_since_at": left.since,
            "looked_at": f"{left.looks} times",
            "last_word": left.last_word,
            "next_look_at": left.next_look_at,
            "what_to_do": left.advice,
        }
        show_facts(console, left.charge, facts, now=now, style="yellow")
