"""What every endpoint gets: one authenticated request, inside its transaction; and how objects leave the sandbox."""

from __future__ import annotations

from dataclasses import dataclass

from rail402.clock import RandomBytes
from rail402_stripe.sandbox.errors import JsonObject, invalid, no_such
from rail402_stripe.sandbox.forms import Params
from rail402_stripe.sandbox.ledger import Books

__all__ = ["Call", "listing", "public", "rendered", "shown_in_error"]

_MAX_EXPANSION_DEPTH = 4

_EXPANDABLE = {
    ("payment_intent", "latest_charge"): "charge",
    ("payment_intent", "payment_method"): "payment_method",
    ("charge", "payment_intent"): "payment_intent",
    ("refund", "charge"): "charge",
    ("refund", "payment_intent"): "payment_intent",
    ("checkout.session", "payment_intent"): "payment_intent",
}

_PUBLISHABLE_FIELDS = (
    "id object amount automatic_payment_methods canceled_at cancellation_reason capture_method client_secret "
    "confirmation_method created currency description last_payment_error livemode next_action payment_method "
    "payment_method_types processing receipt_email setup_future_usage shipping source status"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        books: the ledger, in this request's transaction.
        params: the query's or the body's parameters.
        object_id: the id in the path, or empty.
        now: the time in Unix seconds.
        random_bytes: makes the ids.
        publishable: it came with a publishable key and a client secret.
        profile_id: the seller's own profile, which a shared payment token may be made out to.
        public_url: scheme, host and port of the hosted checkout page.
    """

    books: Books
    params: Params
    object_id: str
    now: int
    random_bytes: RandomBytes
    publishable: bool
    profile_id: str
    public_url: str

    def new_id(self, prefix: str) -> str:
        """Return a fresh id such as `pi_…`."""
        return f"{prefix}_{self.random_bytes(12).hex()}"

    def own(self, kind: str) -> JsonObject:
        """Return the object the path names.

        Raises:
            ApiError: 404.
        """
        found = self.books.find(kind, self.object_id)
        if found is None:
            raise no_such(kind, self.object_id, status=404)
        return found


def public(document: JsonObject) -> JsonObject:
    """Return a document without the sandbox's own fields."""
    return {name: value for name, value in document.items() if not name.startswith("_")}


def shown_in_error(call: Call, document: JsonObject) -> JsonObject:
    """Return a document as an error shows it: whole, or redacted for a publishable key."""
    if call.publishable:
        return {name: value for name, value in document.items() if name in _PUBLISHABLE_FIELDS.split()}
    return public(document)


def rendered(call: Call, document: JsonObject) -> JsonObject:
    """Return a document as the caller may see it: expanded as asked, redacted for a publishable key.

    Raises:
        ApiError: 400; a property that cannot be expanded was asked for.
    """
    shown = shown_in_error(call, document)
    for path in () if call.publishable else call.params.texts("expand"):
        _expand(call.books, shown, path.split("."), path)
    return shown


def listing(call: Call, url: str, documents: list[JsonObject], has_more: bool) -> JsonObject:
    """Return a list object; `expand[]=data.latest_charge` expands each element.

    Raises:
        ApiError: 400; a property that cannot be expanded was asked for.
    """
    shown = [public(document) for document in documents]
    for path in call.params.texts("expand"):
        head, *rest = path.split(".")
        if head != "data" or not rest:
            raise _not_expandable(path)
        for document in shown:
            _expand(call.books, document, rest, path)
    return {"object": "list", "data": shown, "has_more": has_more, "url": url}


def _expand(books: Books, document: JsonObject, steps: list[str], path: str) -> None:
    if len(steps) > _MAX_EXPANSION_DEPTH:
        raise _not_expandable(path)
    for step in steps:
        kind = _EXPANDABLE.get((document["object"], step))
        if kind is None:
            raise _not_expandable(path)
        value = document[step]
        if isinstance(value, str):
            found = books.find(kind, value)
            value = document[step] = value if found is None else public(found)
        if not isinstance(value, dict):
            return  # nothing there yet: null stays null
        document = value


def _not_expandable(path: str) -> Exception:
    return invalid("expand", f"This property cannot be expanded ({path[:100]}).")
