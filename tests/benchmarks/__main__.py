from __future__ import annotations

import argparse

from tests.benchmarks import effects, file, live, loop, models, motion, webrtc

KINDS = {
    "file": file,
    "effects": effects,
    "live": live,
    "loop": loop,
    "models": models,
    "motion": motion,
    "webrtc": webrtc,
}

parser = argparse.ArgumentParser(prog="scripts/bench")
commands = parser.add_subparsers(required=True)
for name, kind in KINDS.items():
    command = commands.add_parser(name, help=kind.__doc__.splitlines()[0])
    kind.add_arguments(command)
    command.set_defaults(run=kind.run)
arguments = parser.parse_args()
arguments.run(arguments)
