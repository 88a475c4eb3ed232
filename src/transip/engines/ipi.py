"""A transip potential in i-PI: a client, through ASE, of i-PI's socket.

python -m transip.engines.ipi MODEL molecule.xyz --socket NAME --charge 0 --spin 1
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import ase
import numpy as np
from ase.calculators.socketio import SocketClient
from ase.units import Bohr

from transip.errors import InputError
from transip.inference.ase import TransIPCalculator

WAIT = 0.1  # s, between attempts to connect


def run_client(
    atoms: ase.Atoms,
    calculator: TransIPCalculator,
    *,
    socket: str | None = None,
    host: str = "localhost",
    port: int | None = None,
    timeout: float = 60.0,
) -> None:
    """Compute what i-PI asks for until it ends; of periodic cells also the virial, if the model has a stress.

    Of molecules from models with charges, the dipole is among i-PI's extras, as ``{"dipole": [x, y, z]}`` in e·a₀.

    Args:
        atoms: what i-PI simulates, atoms in the same order, with ``pbc`` if its cell repeats; not changed.
        calculator: with charge and multiplicity, unless ``atoms.info`` has them.
        socket: name of i-PI's Unix socket (``<ffsocket mode="unix"><address>NAME``).
        host: where i-PI runs, if there is no `socket`.
        port: of i-PI, if there is no `socket`.
        timeout: seconds to wait for i-PI to start.

    Raises:
        InputError: i-PI cannot be reached, the atoms cannot be used, or the cell changes and there is no stress.
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    calculator.structure(atoms)  # what cannot be used is said before i-PI waits for it
    use_stress = bool(atoms.pbc.all()) and calculator.has_stress
    first = None
    client = _connect(timeout, unixsocket=socket, host=host, port=port)
    if not atoms.pbc.any() and "dipole" in calculator.implemented_properties:
        client.protocol.sendforce = _with_dipole(client.protocol.sendforce, atoms)
    for _ in client.irun(atoms, use_stress=use_stress):
        first = atoms.cell.array.copy() if first is None else first
        if not use_stress and atoms.pbc.any() and not np.allclose(atoms.cell.array, first, rtol=0, atol=1e-6):
            raise InputError(
                "the cell changes, and there is no stress to change it with",
                where="i-PI",
                remedy="use a model with conservative forces and a cell with three periodic directions, or keep it",
            )


def _with_dipole(send: Callable[..., None], atoms: ase.Atoms) -> Callable[..., None]:
    """`send` of ASE's protocol, with the dipole of `atoms`; all that i-PI reads is in atomic units."""

    def send_with_dipole(*energy_forces_virial: Any) -> None:
        extras = json.dumps({"dipole": (atoms.get_dipole_moment() / Bohr).tolist()})
        send(*energy_forces_virial, np.frombuffer(extras.encode(), dtype=np.byte))

    return send_with_dipole


def _connect(timeout: float, **address: Any) -> SocketClient:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return SocketClient(**address)
        except (ConnectionError, FileNotFoundError) as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"i-PI cannot be reached ({error})",
                    where=str(address["unixsocket"] or f"{address['host']}:{address['port']}"),
                    remedy="start i-PI first, and give the address in its input",
                ) from error
            time.sleep(WAIT)


def main() -> None:
    """The command line above."""
    description = (run_client.__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m transip.engines.ipi", description=description)
    parser.add_argument("model", help="folder or name of a model")
    parser.add_argument("structure", help="file whose first structure it is, atoms in i-PI's order")
    parser.add_argument("--socket", help="name of i-PI's Unix socket")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int)
    parser.add_argument("--charge", type=int, help="e; default: the file's")
    parser.add_argument("--spin", type=int, help="multiplicity 2S + 1; default: the file's")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    address = {"socket": given.socket, "host": given.host, "port": given.port}
    try:
        calculator = TransIPCalculator(given.model, charge=given.charge, spin=given.spin, device=given.device)
        run_client(next(calculator.read_file(given.structure)).to_atoms(), calculator, **address)
    except InputError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
