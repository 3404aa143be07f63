"""Chooses the slot keys of new tasks. Clients name models freely, so the number of keys is bounded."""

from receiver.domain.model import Json
from receiver.domain.slot_keys import OTHER_MODELS, slot_key, split_slot_key
from receiver.kling.endpoints import Endpoint
from receiver.kling.models import KNOWN_MODELS, requested_model
from receiver.settings.slots import SlotSettings

_MAX_UNLISTED = 64


class SlotKeys:
    """The slot keys in use. A model has its own if the catalogue or the configuration names it.

    So have the first 64 other models. Those after them share the key of the model ``other``.
    """

    def __init__(self, settings: SlotSettings) -> None:
        self._unlisted: set[str] = set()
        self.apply(settings)

    def apply(self, settings: SlotSettings) -> None:
        """Use *settings* for later tasks."""
        self._settings = settings
        self._named = {split_slot_key(key)[1] for key in settings.named_keys}

    def key(self, endpoint: Endpoint, body: Json) -> str:
        """Return the key of a create with this body, or "" if it uses no slots."""
        if endpoint.pack is None:
            return ""
        return self._settings.key_of(slot_key(endpoint.pack, self._bounded(requested_model(endpoint, body))))

    def _bounded(self, model: str) -> str:
        if not model or model in KNOWN_MODELS or model in self._named or model in self._unlisted:
            return model
        if len(self._unlisted) >= _MAX_UNLISTED:
            return OTHER_MODELS
        self._unlisted.add(model)
        return model
