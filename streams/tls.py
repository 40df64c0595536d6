"""Makes the TLS context of a client, from the files that the settings name."""

from __future__ import annotations

import ssl
from pathlib import Path

from .errors import ConfigError


def tls_context(
    setting: str, ca: str, certificate: str = "", key: str = "", key_password: str = ""
) -> ssl.SSLContext:
    """A client's context that checks the server's certificate and its name.

    `ca`: a PEM file or a folder of them; empty for the system's. `certificate` and `key` (PEM)
    identify the client; the key may be in the certificate's file. Raises ConfigError, which names
    `setting`.
    """
    if key and not certificate:
        raise ConfigError(f"{setting}: there is a key for a client certificate, but no certificate")
    try:
        is_folder = Path(ca).is_dir() if ca else False
        context = ssl.create_default_context(
            cafile=None if is_folder else ca or None, capath=ca if is_folder else None
        )
    except OSError as exc:
        raise ConfigError(f"{setting}: no CA certificates can be read from {ca}: {exc}") from exc
    # Some distributions, such as Debian, build Python to take this from the system's settings.
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    if certificate:
        try:  # the empty password keeps OpenSSL from asking for one at the terminal
            context.load_cert_chain(certificate, key or None, key_password)
        except OSError as exc:
            raise ConfigError(
                f"{setting}: the client certificate {certificate} with the key "
                f"{key or 'in the same file'} cannot be used: {exc}"
            ) from exc
    return context
