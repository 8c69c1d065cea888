"""The engines of the end-to-end tests: a further one is one more entry."""

from __future__ import annotations

from docker_view import DockerView
from engine_view import EngineView
from libvirt_view import LibvirtView
from native_view import NativeView

VIEWS: dict[str, type[EngineView]] = {view.name: view for view in (DockerView, NativeView, LibvirtView)}

#: those that the main line runs on, and those that every test runs on that does not name its own
MAIN_LINE = tuple(VIEWS)
CONTAINERS = WHOLE_SUITE = tuple(name for name, view in VIEWS.items() if view.whole_suite)
