"""Check the signatures of a run folder without fedprint: python docs/check_run.py RUN."""

import hashlib
import json
import sys
from base64 import b64decode
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from safetensors.numpy import load

HASH = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
def opened(path, pem):  # noqa: E302  DSSE: the signature is over "DSSEv1 len type len body"
    box, key = json.loads(path.read_bytes()), load_pem_public_key(pem)
    body, kind = b64decode(box["payload"]), box["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)
    curve = (ec.ECDSA(HASH[key.key_size]),) if isinstance(key, ec.EllipticCurvePublicKey) else ()
    key.verify(b64decode(box["signatures"][0]["sig"]), signed, *curve)  # raises when it is wrong
    return json.loads(body)
