"""Check the signatures of a run folder without fedprint: python docs/check_run.py RUN."""

import hashlib
import json
import sys
from base64 import b64decode
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from safetensors.numpy import load


def opened(path, key_of):  # a DSSE envelope; raises when its signature is wrong
    box = json.loads(path.read_bytes())
    body, kind, signed = b64decode(box["payload"]), box["payloadType"], box["signatures"][0]
    key = serialization.load_pem_public_key(key_of(signed["keyid"]).encode())
    ec = [ECDSA(getattr(hashes, f"SHA{min(key.key_size, 512)}")())] if hasattr(key, "curve") else []
    text = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(body), body)
    key.verify(b64decode(signed["sig"]), text, *ec)
    return json.loads(body)


run = Path(sys.argv[1])
store = opened(run / "trust.dsse.json", lambda _: (run / "coordinator.pub.pem").read_text())
keys = {(e["site"], e["key_id"]): e["public_key_pem"] for e in store["entries"]}
for file in sorted((run / "fingerprints").glob("*.safetensors")):
    said = opened(file.with_suffix(".dsse.json"), lambda key, file=file: keys[file.stem, key])
    assert said["subject"][0]["digest"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    print(f"{file.stem}: signed and whole, {load(file.read_bytes())['counts'].shape}")
