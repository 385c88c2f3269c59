"""One line that pays, with the wallets and the limits of ~/.config/rail402/wallets.toml. `rail402 init` makes one.

python examples/fetch.py URL
"""

import asyncio
import sys

from rail402 import fetch


async def main(url: str) -> None:
    response = await fetch(url, at_most="0.10 USD")
    print(response.status_code, response.text)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
