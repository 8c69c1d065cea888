"""Images of a Docker engine: made from root file systems, without a registry."""

from __future__ import annotations

import json
from pathlib import Path

from docker import APIClient

from hypervisor.hypervisor_base import ImageInfo
from nfio.errors import HypervisorError

RECIPE_LABEL = "io.nfio.recipe"


def import_root(
    client: APIClient, name: str, tarball: Path, command: list[str], labels: dict[str, str]
) -> None:
    """Make an image from the tar file of a root file system. HypervisorError (EIO) if it is refused."""
    changes = [f"CMD {json.dumps(command)}"]
    changes += [f"LABEL {_quoted(key)}={_quoted(value)}" for key, value in labels.items()]
    repository, _, tag = name.partition(":")
    answer = client.import_image_from_file(
        str(tarball), repository=repository, tag=tag or "latest", changes=changes
    )
    # A failure after the transfer comes with status 200, as a line of the answer.
    for line in answer.splitlines():
        if error := json.loads(line).get("error"):
            raise HypervisorError(error)


def images_of(client: APIClient) -> list[ImageInfo]:
    """Every tagged image that the engine has."""
    return [
        ImageInfo(
            name.removesuffix(":latest").removeprefix("docker.io/"),  # which Podman says of its own
            image["Size"],
            float(image["Created"]),
            (image["Labels"] or {}).get(RECIPE_LABEL, ""),
        )
        for image in client.images()
        for name in image["RepoTags"] or ()
        if name != "<none>:<none>"
    ]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
