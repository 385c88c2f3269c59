"""The pages for people: what is paid, the way back from Checkout, and plain messages. Pure.

They load nothing, run no script but the one below, and can be put into no frame. What comes out of a link is written
as text. The link proves what is charged, by whom and for which address.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from typing import Final

from rail402.protocol.endpoint import EndpointReply

__all__ = ["fetching_page", "message_page", "pay_page"]

_STYLE: Final = (
    "body{font:1.1em/1.5 system-ui,sans-serif;max-width:34em;margin:4em auto;padding:0 1em}"
    "button{font:inherit;padding:.6em 1.4em}code{overflow-wrap:anywhere}"
)

# Fetches what was bought and puts it in this page's place. Scripts of what was bought do not run: it is parsed as a
# document of its own, and this page's policy names the one script that may.
_SCRIPT: Final = """
(async () => {
  const told = JSON.parse(document.getElementById("bought").textContent);
  const say = (text) => { document.getElementById("status").textContent = text; };
  say("Fetching what you paid for\\u2026");
  const wait = (seconds) => new Promise((done) => { setTimeout(done, seconds * 1000); });
  let response;
  for (let left = 12; left > 0; left -= 1) {
    try {
      response = await fetch(told.url, {headers: {"Payment-Authorization": told.payment}, cache: "no-store"});
    } catch (error) {
      response = undefined;
    }
    if (response && !response.headers.has("retry-after")) break;
    say("Your payment is being confirmed\\u2026");
    await wait(Math.min(Number(response && response.headers.get("retry-after")) || 3, 10));
  }
  if (!response) return say("The page cannot be reached. Your payment is kept: reload to try again.");
  const type = (response.headers.get("content-type") || "").split(";")[0].trim();
  if (!response.ok) {
    const said = type.endsWith("json") ? await response.json() : {};
    return say(`It was not delivered (${response.status}). ${said.detail || said.error || ""}`);
  }
  if (type === "text/html") {
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!page.querySelector("base[href]")) {
      const base = page.createElement("base");
      base.href = response.url;
      page.head.prepend(base);
    }
    return document.replaceChild(document.adoptNode(page.documentElement), document.documentElement);
  }
  if (type.startsWith("text/") || type.endsWith("json")) {
    const text = document.createElement("pre");
    text.textContent = await response.text();
    return document.body.replaceChildren(text);
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = new URL(response.url).pathname.split("/").pop() || "download";
  link.textContent = `Save ${link.download}`;
  return document.getElementById("status").replaceChildren(link);
})();
"""


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# A form's target may redirect, and browsers check that too: Checkout is at Stripe, or at a domain of the publisher's.
_PLAIN: Final = (
    f"default-src 'none'; style-src {_hashed(_STYLE)}; form-action 'self' https:; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_FETCHING: Final = (
    f"default-src 'none'; script-src {_hashed(_SCRIPT)}; connect-src 'self'; style-src * 'unsafe-inline'; "
    "img-src * data: blob:; font-src * data:; media-src * data: blob:; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def pay_page(price: str, host: str, url: str, *, action: str, hidden: Mapping[str, str], note: str) -> EndpointReply:
    """Return the page on which a person decides to pay.

    Args:
        price: what is charged; host: who is paid; both are proven.
        url: what for, as the link says.
        action: where the button leads, a path of ours; hidden: what it sends.
        note: what happens then.
    """
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in hidden.items()
    )
    body = (
        f"<h1>Pay {escape(price)}</h1><p>to <b>{escape(host)}</b>, for one request of</p>"
        f"<p><code>{escape(url)}</code></p>"
        f'<form method="post" action="{escape(action)}">{fields}<button>Pay by card</button></form>'
        f"<p>{escape(note)}</p>"
    )
    return _page(f"Pay {price}", body, _PLAIN)


def message_page(title: str, text: str, *, status: int = 200, link: str = "") -> EndpointReply:
    """Return a page that says something; `link` is a path of ours that leads on."""
    way = f'<p><a href="{escape(link)}">Go on</a></p>' if link else ""
    return _page(title, f"<h1>{escape(title)}</h1><p>{escape(text)}</p>{way}", _PLAIN, status=status)


def fetching_page(url: str, payment: str) -> EndpointReply:
    """Return the page that fetches what was bought.

    Args:
        url: what was bought, of our own origin.
        payment: the credential to show for it.
    """
    told = json.dumps({"url": url, "payment": payment}).replace("<", "\\u003c")
    command = f"curl -H {_quoted(f'Payment-Authorization: {payment}')} {_quoted(url)}"
    body = (
        f"<h1>Thank you</h1><noscript><p>Without JavaScript this page cannot fetch what you bought. This can:</p>"
        f"<p><code>{escape(command)}</code></p></noscript>"
        f'<p id="status"></p><script type="application/json" id="bought">{told}</script><script>{_SCRIPT}</script>'
    )
    return _page("Thank you", body, _FETCHING)


def _quoted(text: str) -> str:
    """Return a text as one word of a POSIX shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def _page(title: str, body: str, policy: str, *, status: int = 200) -> EndpointReply:
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )
    fields = [
        ("content-security-policy", policy),
        ("referrer-policy", "same-origin"),
        ("x-content-type-options", "nosniff"),
    ]
    return EndpointReply(status=status, body=text.encode(), media_type="text/html; charset=utf-8", fields=fields)
