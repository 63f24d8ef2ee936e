"""Where AWS keys come from: environment, container, profiles and roles, instance metadata.

aiodynamo reads the plain sources itself. What needs a protocol of its own (web identity on EKS, SSO, assumed roles,
credential_process) is left to botocore, the `aws` extra, which is imported only when such a source is configured.
"""

import asyncio
import importlib.util
import os
from pathlib import Path
from typing import Any

from aiodynamo.credentials import (
    ChainCredentials,
    ContainerMetadataCredentials,
    Credentials,
    EnvironmentCredentials,
    FileCredentials,
    InstanceMetadataCredentialsV2,
    Key,
)
from aiodynamo.http.types import HttpImplementation

from app.errors import StoreUnavailable

# The last one is EKS Pod Identity's; aiodynamo knows container metadata only with a token in the environment.
BOTOCORE_ONLY = {"AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"}


class BotocoreCredentials(Credentials):
    """Keys from whatever source botocore resolves; botocore refreshes them before they expire."""

    def __init__(self) -> None:
        self._resolved: Any = None  # botocore has no types

    async def get_key(self, http: HttpImplementation) -> Key | None:  # noqa: ARG002 botocore has its own HTTP client
        """Return the key that is valid now, refreshed where its source says so."""
        try:
            return await asyncio.to_thread(self._get_key)
        except Exception as exc:  # botocore's sources raise what they like: HTTP, files, processes
            raise StoreUnavailable(f"AWS keys cannot be had: {type(exc).__name__}") from exc

    def _get_key(self) -> Key | None:
        from botocore.session import Session  # noqa: PLC0415 200 ms that only these sources may cost

        if self._resolved is None:
            self._resolved = Session().get_credentials()
        if self._resolved is None:
            return None
        frozen = self._resolved.get_frozen_credentials()
        return Key(frozen.access_key, frozen.secret_key, frozen.token)

    def invalidate(self) -> bool:
        """Forget the key, so that the next call asks the source again."""
        self._resolved = None
        return True

    def is_disabled(self) -> bool:
        """Return whether nothing is configured that needs botocore, or botocore is not installed."""
        configured = BOTOCORE_ONLY & os.environ.keys()
        profiles = Path(os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser()
        return not (configured or profiles.is_file()) or importlib.util.find_spec("botocore") is None


def credentials() -> Credentials:
    """Return the chain of sources in the order of AWS's own SDKs."""
    return ChainCredentials(
        [
            EnvironmentCredentials(),
            BotocoreCredentials(),
            FileCredentials(),
            ContainerMetadataCredentials(),
            InstanceMetadataCredentialsV2(),
        ]
    )
