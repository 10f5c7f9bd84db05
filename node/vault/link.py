"""LINK and its one door, which opens with the data-protection officer's key alone.

What may live here: who may use LINK and for how long, that every use is told, and what else opens with the officer's
key: the names in SUPPRESSION, the forms in ARCHIVE. What this file does not know: what LINK's rows say.
"""

from __future__ import annotations

import hmac
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.errors import LocalFault, Refused
from node.vault.compartment import LOCKED, Compartment, KeyFile

Tell = Callable[[str, tuple[str, ...]], None]
"""(act, consents as hex): told before LINK opens, and again with what it was about before it answers."""


class _Access:
    """LINK's secret for one order; `key` is None once the order has ended."""

    __slots__ = ("key", "link", "tell")

    def __init__(self, link: Link, key: bytes, tell: Tell) -> None:
        self.link, self.tell = link, tell
        self.key: bytes | None = key


_ACCESS: ContextVar[_Access | None] = ContextVar("koinon-vault-access", default=None)
"""The access of the running task, and of the threads it works in; other tasks of the same process have none."""


def _tell_nobody(act: str, consents: tuple[str, ...]) -> None:
    """For vaults that no log watches: of tests, of simulations, and while a home is made."""


class Link:
    """LINK's compartment. What it needs the officer's key for raises `Refused` outside `unlocked`."""

    def __init__(
        self, part: Compartment, suppression: Compartment, keys: KeyFile, lock: threading.RLock, officer: bytes | None
    ) -> None:
        """`lock` is the vault's: an act on LINK is one on the vault."""
        self._part, self._suppression, self._keys, self._lock = part, suppression, keys, lock
        self._depth = 0
        self._touched: list[str] = []
        self._secret: bytes | None = None
        self._form_cipher: AESGCM | None = None
        secret = keys.standing if officer is None else self._fitting(officer)
        self._standing = None if secret is None else _Access(self, secret, _tell_nobody)

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        self._part.close()

    def keep_slots(self, slots: set[bytes]) -> None:
        """Remove every row whose slot is none of these; it needs no officer's key."""
        self._part.keep_slots(slots)

    @property
    def needs_officer(self) -> bool:
        """Whether LINK opens with an officer's key only; not so in the vault of a simulation."""
        return self._standing is None

    @property
    def has_key(self) -> bool:
        """Whether the running task has the key, for now."""
        access = _ACCESS.get()
        mine = access is not None and access.link is self and access.key is not None
        return mine or self._standing is not None

    def _fitting(self, officer: bytes) -> bytes:
        secret = self._keys.secret(officer)
        if secret is None:
            raise Refused("this is not the key of the data-protection officer of this vault")
        return secret

    @contextmanager
    def unlocked(self, officer: bytes, tell: Tell) -> Iterator[None]:
        """Let the running task use LINK until the block ends; every use is told before it happens.

        Raises:
            Refused: not the officer's key of this vault.
        """
        access = _Access(self, self._fitting(officer), tell)
        token = _ACCESS.set(access)
        try:
            if self._part.owed:
                with self.opened("rekey"):
                    self._part.destroy(())
            yield
        finally:
            access.key = None
            _ACCESS.reset(token)

    def admit(self, officer: bytes) -> None:
        """Let LINK open with this key as well (LINK): a new officer's, until `keep` ends the old one."""
        with self.opened("admit an officer's key"):
            assert self._secret is not None
            self._keys.admit(self._secret, officer)

    def keep(self, officer: bytes) -> None:
        """From now on LINK opens with this key alone, and under a fresh share (LINK)."""
        self._fitting(officer)
        with self.opened("end other officers' keys") as link:
            self._keys.keep(officer)
            link.destroy(())

    @contextmanager
    def opened(self, act: str, *consents: str) -> Iterator[Compartment]:
        """LINK, and the names in SUPPRESSION, open for one act: the only way to them. Told first, then opened."""
        access = _ACCESS.get()
        if access is None or access.link is not self or access.key is None:
            access = self._standing
        if access is None or access.key is None:
            raise Refused(LOCKED)
        with self._lock:
            if self._depth:  # part of an act that was told already; what it is about is told at the end
                self._touched += consents
                yield self._part
                return
            access.tell(act, consents)
            self._depth, self._touched = 1, []
            try:
                self._secret = access.key
                self._part.unlock(access.key)
                self._suppression.unlock(access.key)
                self._form_cipher = AESGCM(hmac.digest(access.key, b"koinon/vault/archived-form/1", "sha256"))
                yield self._part
                if self._touched:
                    access.tell(act, tuple(dict.fromkeys(self._touched)))
            finally:
                self._depth, self._touched = 0, []
                self._secret = None
                self._form_cipher = None
                self._part.lock()
                self._suppression.lock()

    def touch(self, *consents: str) -> None:
        """Say what the open act is about, where that comes out on the way; it is told before the act answers."""
        self._touched += consents

    def seal_form(self, form: dict[str, Any]) -> str:
        """The person and the signed form as ARCHIVE will keep them, for the officer's eyes."""
        assert self._form_cipher is not None
        nonce = os.urandom(12)
        plain = json.dumps(form).encode()
        return (nonce + self._form_cipher.encrypt(nonce, plain, b"koinon/archived-form/1")).hex()

    def open_form(self, sealed: str) -> dict[str, Any]:
        """What `seal_form` sealed."""
        assert self._form_cipher is not None
        body = bytes.fromhex(sealed)
        try:
            found: dict[str, Any] = json.loads(
                self._form_cipher.decrypt(body[:12], body[12:], b"koinon/archived-form/1")
            )
        except InvalidTag:
            raise LocalFault("the vault's archive compartment is damaged: a sealed form does not open") from None
        return found
