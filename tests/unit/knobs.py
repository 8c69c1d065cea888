"""A type with all kinds of files, and how tests of its files name and make them."""

from __future__ import annotations

import os

from world import World

from nfio.vnf import Vnf

KNOBS = '''\
"""A type with all kinds of files."""

from middleboxes import Directory, Knob, LiveFile, Middlebox, Order, Recipe, Settings, Stream


def word(text: str) -> None:
    if text not in ("accept", "drop"):
        raise ValueError(f"write accept or drop, not {text!r}")


def number(text: str) -> None:
    if not text.isdigit():
        raise ValueError(f"{text!r} is not a number")


def render(settings: Settings):
    lines = [f"policy {settings['policy']}", *settings.lines("forwards")]
    for name in settings.names("sets"):
        lines.append(f"set {name}: {' '.join(settings.names(f'sets/{name}'))}")
    for name in settings.names("backends"):
        lines.append(f"server {name} weight {settings[f'backends/{name}/weight']}")
    return {"knobs": "\\n".join(lines) + "\\n"}


GIVEN = []


def give(guest, text):
    if text == "wrong":
        raise ValueError("that is no order")
    GIVEN.append(text)


MIDDLEBOX = Middlebox(
    type="knobs",
    summary="knobs",
    recipe=Recipe(packages=()),
    check=("check",),
    reload=("apply",),
    default_config="plain\\n",
    render=render,
    files={
        "policy": Knob("the policy", word, "accept"),
        "forwards": Knob("lines", lines=True),
        "flush": Order("flushes", give),
        "pipes": Directory("what blocks", {"words": Stream("words", "/words")}),
        "sets": Directory("sets", entries=Directory("a set", entries=Knob("an element")), check=number),
        "backends": Directory(
            "servers",
            entries=Directory(
                "a server",
                {
                    "weight": Knob("its weight", number, "1"),
                    "load": LiveFile(lambda guest, name: f"{name}\\n", "its load"),
                },
            ),
        ),
    },
)
'''


def at(file: str) -> str:
    return f"/nf-types/knobs/a/{file}"


def create(world: World, file: str, content: bytes = b"") -> None:
    """As `>` does with a file that is not there."""
    handle = world.tree.create(at(file), os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        if content:
            handle.write(content, 0)
    finally:
        handle.close()


def told(world: World, vnf: Vnf) -> list[str]:
    """What the guest has in the file that is made from the knobs."""
    return world.guest(vnf).config()["knobs"].decode().splitlines()
