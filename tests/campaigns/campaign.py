"""Tries the suite against what machines, neighbours and other people's files do, many times.

    python tests/campaigns/campaign.py kills stalls flips hostile at-once [--tries N] [--only NUMBER ...] [--jobs 2]

What was tried and what went wrong is printed, with how many of each kind; exit code 1 where anything did. Each try
has a number and depends on it and on the seed alone, so that ``--only`` repeats it. Needs Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import at_once
import flips
import hostile
import kills
import stalls
import warm
from place import Given, Place

CAMPAIGNS: dict[str, Callable[[Place, Given], int]] = {
    "kills": kills.run,
    "stalls": stalls.run,
    "flips": flips.run,
    "hostile": hostile.run,
    "at-once": at_once.run,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("campaigns", nargs="+", choices=CAMPAIGNS)
    parser.add_argument("--tries", type=int, help="of each campaign at most so many, evenly spread (all)")
    parser.add_argument("--short", action="store_true", help="the few tries that are most telling")
    parser.add_argument("--only", type=int, nargs="+", default=[], metavar="NUMBER", help="these tries alone")
    parser.add_argument("--part", choices=flips.TRIES, help="of the flips this part alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="tries side by side (1)")
    parser.add_argument("--folder", type=Path, help="for all that it writes; kept (default: a temporary one)")
    chosen = parser.parse_args(argv)
    given = Given(chosen.tries, tuple(chosen.only), chosen.seed, chosen.jobs, chosen.short)
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="ablate-campaign-"))
    folder.mkdir(parents=True, exist_ok=True)
    place, wrong = Place(folder.resolve()), 0
    for name in chosen.campaigns:
        began = time.monotonic()
        if name == "flips" and chosen.part:
            wrong += flips.run(place, given, (chosen.part,))
        else:
            wrong += CAMPAIGNS[name](place, given)
        print(f"  {name} took {time.monotonic() - began:.0f} s", flush=True)
    if chosen.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    warm.preload()
    warm.forget_library()
    sys.exit(main())
