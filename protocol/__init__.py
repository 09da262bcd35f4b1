"""What crosses the wire and how it is trusted.

The room holds the fingerprint specification, the fingerprint, the task card, the signed
statements and their envelopes, the trust store, the transparency log and the conversion to
Flower records. It imports nothing of the other rooms and no deep-learning framework.
"""
