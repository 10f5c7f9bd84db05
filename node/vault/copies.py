"""The imported copy: one file and one key a patient, under a random pseudonym.

What may live here: RESEARCH and `data/`, and which row of the copy is whose. What this file does not know: consents,
and who a pseudonym is.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from node.errors import InputError, LocalError, LocalFault, NotFound
from node.vault.compartment import Compartment, shred

_ROWS_MAGIC: Final = b"koinon.rows/1\n"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Records(Protocol):
    """What `import_dataset` takes: `fl_engine.data.dataset.Dataset`, whose field descriptions apply."""

    @property
    def x(self) -> NDArray[np.float32]:
        """float32 [N, ...]."""
        ...

    @property
    def y(self) -> NDArray[np.int64]:
        """int64 [N]."""
        ...

    @property
    def patients(self) -> tuple[str, ...]:
        """N identifiers."""
        ...

    @property
    def roles(self) -> NDArray[np.uint8]:
        """uint8 [N]: 0 train, 1 validation, 2 test."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import took in: patients and records; `suppressed` patients were left out, `known` ones already here."""

    patients: int
    records: int
    suppressed: int
    known: int


class Copies:
    """RESEARCH and `data/`: the copies, by pseudonym."""

    def __init__(self, research: Compartment, data: Path, lock: threading.RLock) -> None:
        """`lock` is the vault's: a copy is read whole or not at all."""
        self._research, self._data, self._lock = research, data, lock
        self._owners: dict[int, tuple[str, int]] = {}

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        self._research.close()

    def keep(self, held: set[str]) -> None:
        """Destroy every copy whose pseudonym is none of these."""
        stray = [p["pseudonym"] for p in self._research.all("patient") if p["pseudonym"] not in held]
        if stray:
            self._research.destroy([("patient", name.encode()) for name in stray])
        self.index()
        known = {name for name, _ in self._owners.values()}
        for path in self._data.iterdir():
            if path.name.removesuffix(".bin") not in known:
                shred(path)

    def index(self) -> None:
        """Look anew which row is whose."""
        self._owners = {
            number: (one["pseudonym"], one["role"]) for one in self._research.all("patient") for number in one["rows"]
        }

    def fit(self, dataset: Records) -> tuple[dict[str, list[int]], dict[str, Any]]:
        """The rows of each patient, and the shape that all records then have; raises as `import_dataset` says."""
        shape = list(dataset.x.shape[1:])
        there = self._research.get("meta", b"shape")
        if there is not None and there["shape"] != shape:
            raise InputError(f"records of shape {tuple(shape)}; this vault holds shape {tuple(there['shape'])}")
        mine: dict[str, list[int]] = {}
        for row, patient in enumerate(dataset.patients):
            mine.setdefault(patient, []).append(row)
        for rows in mine.values():
            odd = next((row for row in rows if dataset.roles[row] != dataset.roles[rows[0]]), None)
            if odd is not None:
                raise InputError(f"the patient of row {odd} also has row {rows[0]} in another role (rows from 0)")
        return mine, {"shape": shape, "classes": max(dataset.classes, there["classes"] if there else 0)}

    def write(
        self, pseudonym: str, role: int, numbers: list[int], x: NDArray[np.float32], y: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Put a copy into its file, under a key of its own; returns the row that `put` keeps."""
        dek = secrets.token_bytes(32)
        plain = np.ascontiguousarray(x, dtype="<f4").tobytes() + np.ascontiguousarray(y, dtype="<i8").tobytes()
        nonce = os.urandom(12)
        body = _ROWS_MAGIC + nonce + AESGCM(dek).encrypt(nonce, plain, _ROWS_MAGIC + pseudonym.encode())
        with open(self._data / f"{pseudonym}.bin", "wb", opener=_private) as file:
            file.write(body)
        return {"pseudonym": pseudonym, "dek": dek.hex(), "role": role, "rows": numbers}

    def put(self, shape: dict[str, Any], copies: list[dict[str, Any]]) -> None:
        """Keep the rows of copies whose files are there, and the shape of all."""
        with self._research.transaction():
            self._research.put("meta", b"shape", shape)
            for copy in copies:
                self._research.put("patient", copy["pseudonym"].encode(), copy)

    def _read_rows(self, copy: dict[str, Any], shape: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        pseudonym, count = copy["pseudonym"], len(copy["rows"])
        try:
            body = (self._data / f"{pseudonym}.bin").read_bytes()
            at = len(_ROWS_MAGIC)
            cipher = AESGCM(bytes.fromhex(copy["dek"]))
            plain = cipher.decrypt(body[at : at + 12], body[at + 12 :], _ROWS_MAGIC + pseudonym.encode())
        except (OSError, InvalidTag, ValueError):
            raise LocalFault(f"the vault's data file {pseudonym}.bin is missing or damaged") from None
        split = len(plain) - 8 * count
        x = np.frombuffer(plain[:split], dtype="<f4").reshape(count, *shape)
        return x, np.frombuffer(plain[split:], dtype="<i8")

    def shape(self) -> tuple[tuple[int, ...], int, str]:
        """(shape of one record, classes, dtype of x) of the records here."""
        found = self._research.get("meta", b"shape")
        if found is None:
            raise NotFound("the vault holds no records: nothing was imported yet")
        return tuple(found["shape"]), int(found["classes"]), "float32"

    def rows(self, numbers: Iterable[int], role: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Records by import row number, in the order asked."""
        asked = list(numbers)
        shape, _, _ = self.shape()
        with self._lock:
            x = np.empty((len(asked), *shape), dtype=np.float32)
            y = np.empty(len(asked), dtype=np.int64)
            places: dict[str, list[tuple[int, int]]] = {}
            for place, number in enumerate(asked):
                owner = self._owners.get(number)
                if owner is None:
                    raise NotFound(f"row {number} is not in the vault")
                if owner[1] != role:
                    raise LocalError(f"row {number} has role {owner[1]}, asked for as role {role}")
                places.setdefault(owner[0], []).append((place, number))
            for pseudonym, wanted in places.items():
                copy = self._research.get("patient", pseudonym.encode())
                assert copy is not None  # `_owners` is read from the same table
                offset = {number: i for i, number in enumerate(copy["rows"])}
                some_x, some_y = self._read_rows(copy, shape)
                for place, number in wanted:
                    x[place], y[place] = some_x[offset[number]], some_y[offset[number]]
            return x, y

    def every_row(self) -> frozenset[int]:
        """Every row number, of any role."""
        return frozenset(self._owners)

    def row_numbers(self, role: int) -> tuple[int, ...]:
        """Every row number of that role, ascending."""
        return tuple(sorted(number for number, (_, own) in self._owners.items() if own == role))
