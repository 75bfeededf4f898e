"""Rules for the attachments of inputs. Pure."""

import re
from binascii import Error, a2b_base64
from collections.abc import Collection, Sequence

from runtimed.errors import InvalidRequest
from runtimed.model.interaction import Attachment, AttachmentForm

MAX_ATTACHMENTS = 32
MAX_ATTACHMENT_CHARS = 8 * 2**20
"""Characters of base64 of all attachments of an input together."""

MAX_URI = 2_048
MAX_MIME_TYPE = 127

MIME_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*", re.ASCII | re.IGNORECASE)
URI = re.compile(r"[a-z][a-z0-9+.-]*:[!-~]+", re.ASCII | re.IGNORECASE)


def check_attachments(attachments: Sequence[Attachment], field: str = "attachments") -> None:
    """Check attachments as a client sent them. Decodes all of their data: that may take some milliseconds.

    Args:
        attachments: The attachments.
        field: The path of the field that holds them, for the error.

    Raises:
        InvalidRequest: There are too many, or one breaks a rule; the message names the field.
    """
    if len(attachments) > MAX_ATTACHMENTS:
        raise InvalidRequest(f"{field}: expected at most {MAX_ATTACHMENTS}")
    if sum(len(attachment.data or "") for attachment in attachments) > MAX_ATTACHMENT_CHARS:
        raise InvalidRequest(f"{field}: expected at most {MAX_ATTACHMENT_CHARS} characters of data in all")
    for index, attachment in enumerate(attachments):
        _check(attachment, f"{field}[{index}]")


def check_accepted(attachments: Sequence[Attachment], accepted: Collection[AttachmentForm]) -> None:
    """Raise InvalidRequest if there is an attachment that the backend of a Worker does not take.

    Args:
        attachments: The attachments of an input.
        accepted: The forms that the backend takes.
    """
    for index, attachment in enumerate(attachments):
        if attachment.form not in accepted:
            forms = ", ".join(sorted(accepted)) or "none"
            raise InvalidRequest(f"attachments[{index}]: this Worker takes no {attachment.form}; it takes: {forms}")


def _check(attachment: Attachment, field: str) -> None:
    mime_type = attachment.mime_type
    if len(mime_type) > MAX_MIME_TYPE or not MIME_TYPE.fullmatch(mime_type):
        raise InvalidRequest(f"{field}.mime_type: expected a media type, such as image/png")
    if attachment.kind == "image" and not mime_type.lower().startswith("image/"):
        raise InvalidRequest(f"{field}.mime_type: expected one of an image, such as image/png")
    if (attachment.data is None) == (attachment.uri is None):
        raise InvalidRequest(f"{field}: expected either data or uri")
    if attachment.uri is not None and (len(attachment.uri) > MAX_URI or not URI.fullmatch(attachment.uri)):
        raise InvalidRequest(f"{field}.uri: expected a URI of at most {MAX_URI} characters, with its scheme")
    if attachment.data is not None and not _is_base64(attachment.data):
        raise InvalidRequest(f"{field}.data: expected base64 of at least one byte")


def _is_base64(text: str) -> bool:
    try:
        return len(a2b_base64(text, strict_mode=True)) > 0
    except (Error, ValueError):
        return False
