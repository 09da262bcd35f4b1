"""The scores that a site gave in a run: kept, so that a model is scored once, and not too many are.

Whoever chooses models can learn a little of the images from the scores of each.
"""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from fl_client.data_digest import known_digest
from fl_client.history import must_be_written
from fl_client.site import Site
from protocol.errors import DataError, PolicyError
from protocol.files import atomic_write, canonical_json, sha256_hex
from protocol.orders import Order
from protocol.scores import MOST_MODELS, ModelScores

_KEPT = TypeAdapter(dict[str, ModelScores])


class KeptScores:
    """What a site found of models in a run, by the models' SHA-256.

    Parameters
    ----------
    site : Site
        The file lies in its state folder.
    order : Order
        Of which run; a model is scored anew where spec, recipe, splits or images are others.

    Raises
    ------
    DataError
        If the file is damaged.
    """

    def __init__(self, site: Site, order: Order) -> None:
        self._site, self._run = site, order.run
        self._path = site.state / "scores" / f"{sha256_hex(order.run.encode())[:24]}.json"
        how = [order.spec.digest, order.recipe, order.seed, known_digest(site)]
        self._belongs = canonical_json(how)
        try:
            self._kept = _KEPT.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            self._kept = {}
        except (OSError, ValidationError) as error:
            raise DataError(f"{self._path} is damaged: delete it and run again") from error

    def __contains__(self, sha256: str) -> bool:
        return self._key(sha256) in self._kept

    def __getitem__(self, sha256: str) -> ModelScores:
        return self._kept[self._key(sha256)]

    def require_room(self, new: int) -> None:
        """Raise unless so many more models may be scored in the run.

        Raises
        ------
        PolicyError
            With reason ``too-many-models``.
        """
        if len(self._kept) + new > MOST_MODELS:
            raise PolicyError(
                f"site {self._site.name} scores at most {MOST_MODELS} models for run {self._run}",
                "too-many-models",
            )

    def keep(self, scored: ModelScores) -> None:
        """Write down what was found of a model.

        Raises
        ------
        PolicyError
            With reason ``not-recorded`` if it cannot be written.
        """
        self._kept[self._key(scored.model)] = scored
        with must_be_written():
            atomic_write(self._path, _KEPT.dump_json(self._kept), mode=0o600)

    def _key(self, sha256: str) -> str:
        return sha256_hex(self._belongs + sha256.encode())
