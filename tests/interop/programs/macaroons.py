"""pymacaroons makes or restricts a macaroon: `python macaroons.py '{"macaroon"} or {"key", …} and "caveats"'`.

All binary members are hexadecimal digits; what is printed is the macaroon in each of its forms.
"""

import json
import sys

from pymacaroons import MACAROON_V2, Macaroon, Verifier
from pymacaroons.serializers import BinarySerializer

given = json.loads(sys.argv[1])
serializer = BinarySerializer()
if "macaroon" in given:
    macaroon = Macaroon.deserialize(given["macaroon"])
else:
    identifier, location = bytes.fromhex(given["identifier"]), given["location"]
    macaroon = Macaroon(location, identifier, key=bytes.fromhex(given["key"]), version=MACAROON_V2)
for caveat in given["caveats"]:
    macaroon.add_first_party_caveat(caveat)
accepted = False
if "key" in given:
    verifier = Verifier()
    verifier.satisfy_general(lambda caveat: True)
    accepted = verifier.verify(macaroon, bytes.fromhex(given["key"]))
print(
    json.dumps(
        {
            "raw": serializer.serialize_raw(macaroon).hex(),
            "text": macaroon.serialize(),
            "caveats": [bytes(caveat.caveat_id_bytes).decode() for caveat in macaroon.caveats],
            "signature": bytes(macaroon.signature_bytes).decode(),
            "accepted": accepted,
        }
    )
)
