"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from hypervisor.hypervisor_factory import DRIVERS
from nfio import __version__
from nfio.errors import InvalidValue, NfioError

HYPERVISORS = tuple(sorted(DRIVERS))

_EXAMPLES = """\
A first session:
  nfio image build firewall web        make the images, once
  nfio mount ~/vnfs /mnt/nfio          the tree appears at /mnt/nfio
  mkdir /mnt/nfio/nf-types/web/www     define a VNF
  echo activate > /mnt/nfio/nf-types/web/www/action
  cat /mnt/nfio/nf-types/web/www/stats/rx_bytes
  cat /mnt/nfio/nf-types/web/www/error     what went wrong, if something did
  nfio umount /mnt/nfio                what runs goes on running
"""


_FOR = "docker, native, libvirt, or several with commas between them (default: all that answer)"

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # it has no public name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nfio",
        description="Orchestrate virtual network functions through a file system.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nfio {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    _add_mount(commands)
    umount = commands.add_parser("umount", help="unmount; what runs goes on running")
    umount.add_argument("mountpoint", metavar="MOUNTPOINT")
    umount.set_defaults(run=_umount)

    _add_image(commands)

    doctor = commands.add_parser("doctor", help="say what is missing on this machine, and what mends it")
    doctor.add_argument("--module-root", metavar="DIR", default="middleboxes")
    doctor.set_defaults(run=_doctor)

    top = commands.add_parser("top", help="show a live table of all VNFs")
    top.add_argument("mountpoint", metavar="MOUNTPOINT")
    top.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="(default: %(default)s)")
    top.add_argument("--once", action="store_true", help="print the table once and end")
    top.set_defaults(run=_top)
    return parser


def _add_image(commands: _Commands) -> None:
    image = commands.add_parser("image", help="make, list and remove images of VNF types")
    actions = image.add_subparsers(metavar="ACTION", required=True)
    build = actions.add_parser("build", help="make the images of types from Debian packages")
    build.add_argument("types", metavar="TYPE", nargs="*")
    build.add_argument("--all", action="store_true", help="of all types that there are")
    build.add_argument("--for", dest="engines", metavar="ENGINES", help=_FOR)
    build.add_argument(
        "--force", action="store_true", help="make it anew although its recipe has not changed"
    )
    build.add_argument("--module-root", metavar="DIR", default="middleboxes")
    build.set_defaults(run=_image_build)
    listing = actions.add_parser("list", help="list the images of all engines, with sizes and ages")
    listing.set_defaults(run=_image_list)
    remove = actions.add_parser("rm", help="remove images that no VNF is made from")
    remove.add_argument("names", metavar="IMAGE", nargs="+")
    remove.add_argument("--for", dest="engines", metavar="ENGINES", help=_FOR)
    remove.set_defaults(run=_image_remove)


def _add_mount(commands: _Commands) -> None:
    mount = commands.add_parser("mount", help="mount the tree; returns when it answers")
    mount.add_argument(
        "root", metavar="ROOT", help="directory that keeps everything; made if it is not there"
    )
    mount.add_argument("mountpoint", metavar="MOUNTPOINT", help="an empty directory")
    mount.add_argument(
        "--hypervisor",
        choices=HYPERVISORS,
        help="what runs the VNFs (default: what ran them last time; Docker for a new root)",
    )
    mount.add_argument(
        "--module-root",
        metavar="DIR",
        default="middleboxes",
        help="the VNF types (default: those nfio comes with)",
    )
    mount.add_argument("--foreground", action="store_true", help="serve in this process, log to stderr")
    mount.add_argument(
        "--allow-other", action="store_true", help="let other users in, as modes and owners allow"
    )
    mount.add_argument(
        "--log-level",
        metavar="L",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="debug, info, warning or error (default: %(default)s); the log is ROOT/.nfio/nfio.log",
    )
    mount.set_defaults(run=_mount)


def _mount(arguments: argparse.Namespace) -> int:
    from nfio import mounting
    from nfio.store import hypervisor_of

    options = mounting.MountOptions(
        root=arguments.root,
        mountpoint=arguments.mountpoint,
        hypervisor=arguments.hypervisor or hypervisor_of(Path(arguments.root)) or "Docker",
        module_root=arguments.module_root,
        allow_other=arguments.allow_other,
        log_level=arguments.log_level,
    )
    (mounting.serve_foreground if arguments.foreground else mounting.mount)(options)
    return 0


def _umount(arguments: argparse.Namespace) -> int:
    from nfio import mounting

    mounting.umount(arguments.mountpoint)
    return 0


def _image_build(arguments: argparse.Namespace) -> int:
    from nfio import images

    if arguments.all == bool(arguments.types):
        raise InvalidValue("say which types, or --all")
    images.build(arguments.types, arguments.module_root, arguments.engines, force=arguments.force)
    return 0


def _image_list(_: argparse.Namespace) -> int:
    from nfio import images

    images.show()
    return 0


def _image_remove(arguments: argparse.Namespace) -> int:
    from nfio import images

    images.remove(arguments.names, arguments.engines)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from nfio import doctor

    return doctor.report(arguments.module_root)


def _top(arguments: argparse.Namespace) -> int:
    from nfio import top

    top.show(arguments.mountpoint, arguments.interval, once=arguments.once)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status: 1 and one line on stderr if it failed."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except NfioError as error:
        print(f"nfio: {error.line}", file=sys.stderr)
    except OSError as error:
        print(f"nfio: {error.filename or ''}: {error.strerror}".replace(" : ", " "), file=sys.stderr)
    except KeyboardInterrupt:
        print("nfio: interrupted", file=sys.stderr)
    return 1
