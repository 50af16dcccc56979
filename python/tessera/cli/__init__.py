"""The ``tessera`` command: ``inspect``, ``run``, ``op-check``, ``op-stub``, ``doctor``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tessera.errors import TesseraError


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    from tessera import __version__

    top = argparse.ArgumentParser(prog="tessera", description="Look at, run and diagnose Tessera artefacts.")
    top.add_argument("--version", action="version", version=f"tessera {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    inspect = commands.add_parser("inspect", help="what a .tsr file holds")
    inspect.add_argument("file")
    inspect.add_argument("--json", action="store_true", help="machine-readable")
    inspect.add_argument("--graph", action="store_true", help="print the graph's text too")
    inspect.add_argument("--source", metavar="KERNEL", help="print the source of the GPU kernels of that name only")
    inspect.add_argument("--collectives", action="store_true", help="only what devices exchange, and why")
    inspect.add_argument("--no-verify", action="store_true", help="do not compare hashes")

    run = commands.add_parser("run", help="run a .tsr file on NumPy arrays")
    run.add_argument("file")
    run.add_argument("--input", action="append", default=[], metavar="NAME=FILE.npy", help="one for each input")
    run.add_argument("--output", action="append", default=[], metavar="NAME=FILE.npy", help="save this output")
    run.add_argument("--target", help="cpu, cpu.<level> or portable; default: the best that runs here")
    run.add_argument("--save-state", metavar="FILE", help="write the state after the run as a safetensors file")
    run.add_argument("--no-native-code", action="store_true", help="never load the file's kernels")

    check = commands.add_parser("op-check", help="try a library of custom operators on its samples")
    check.add_argument("library", help="a shared library, or a Python file that declares operators")
    check.add_argument("--json", action="store_true", help="machine-readable")

    stub = commands.add_parser("op-stub", help="types of a library's operators, as a .pyi file")
    stub.add_argument("library", help="a shared library, or a Python file that declares operators")
    stub.add_argument("-o", "--output", metavar="FILE", help="where to write it; default: standard output")

    doctor = commands.add_parser("doctor", help="devices and optional libraries found, and why not")
    doctor.add_argument("--json", action="store_true", help="machine-readable")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 with a message on an error."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "inspect":
            from tessera.cli.inspect import collectives, inspect, source

            if options.collectives:
                print(collectives(options.file, as_json=options.json, verify=not options.no_verify))
                return 0
            if options.source is not None:
                print(source(options.file, options.source, verify=not options.no_verify))
                return 0
            print(inspect(options.file, as_json=options.json, graph=options.graph, verify=not options.no_verify))
        elif options.command == "run":
            from tessera.cli.run import run

            print(
                run(
                    options.file,
                    options.input,
                    options.output,
                    target=options.target,
                    native_code=not options.no_native_code,
                    save_state=options.save_state,
                )
            )
        elif options.command == "op-check":
            from tessera.cli.op_check import op_check

            table, held = op_check(options.library, as_json=options.json)
            print(table)
            return 0 if held else 1
        elif options.command == "op-stub":
            from tessera.cli.op_stub import op_stub

            print(op_stub(options.library, options.output))
        else:
            from tessera.cli.doctor import doctor

            print(doctor(as_json=options.json))
    except TesseraError as error:
        print(f"tessera {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return 0
