"""Finding an image the user named: by name, or by the beginning of its ID."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.errors import ContentNotFoundError, InvalidDocumentError
from cache.spec.reference import Reference

if TYPE_CHECKING:
    from builder.state import State
    from cache.images import Stored


def find(state: State, text: str) -> Stored:
    """Find a local image, or the index of several platforms' images.

    Raises:
        ContentNotFoundError: no image has that name or ID.
    """
    by_id = state.images.find_id(text)
    try:
        image = state.images.find(Reference.parse(text)) or by_id
    except InvalidDocumentError:
        if by_id is None:
            raise
        image = by_id
    if image is None:
        msg = f"no local image is named {text[:100]!r}"
        raise ContentNotFoundError(
            msg, hint="`pybuild images` lists them; `pybuild pull` fetches one"
        )
    return image
